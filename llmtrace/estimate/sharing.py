"""Whether an engine computes a part of one prompt in the same step as another's, and how long such a step is.

An engine with a budget of tokens for each step begins a prompt where the one before it left off. Such a call was taken
up a step before the other's first token came. It shows where a call got its own first token sooner after another's than
its prompt alone takes.
"""

from __future__ import annotations

_FADES = 0.98
"""What each further call leaves of what earlier ones showed: some 50 calls count."""
_APART = 2.5
"""Sooner by so many standard deviations of the work is sooner."""
_BEFORE = 4.0
"""Calls that speak for whole prompts beforehand: most engines compute them so, or have room for them in a step."""
_EITHER = 4.0
"""Calls that speak for either beforehand: where nothing has shown, it is as likely as not that steps are shared."""
_ODD = 1.5
"""One that came sooner by more than so many steps is taken for one of that."""
_ONE = 1.5
"""One call alone may be chance."""
_USUAL = 0.6
"""Where an engine shares steps, most calls that wait do: short ones do not show it, and of long ones those that began
late in the step look as if they had it alone."""
_MIDDLE, _LONG = 0.5, 3.0
"""A prompt's middle; and steps that make a long one."""
_LEAST = 0.09
"""A smaller share of the calls that show it is none: so often noise alone is as far off."""


class Sharing:
    """What the calls of a route have shown of it."""

    __slots__ = ("_alone", "_shared", "step")

    def __init__(self) -> None:
        self._alone = self._shared = 0.0
        self.step = 0.0
        """A full step of the engine, s."""

    def watch(self, gap: float, work: float, noise: float) -> None:
        """A call whose first token came ``gap`` s after another's; its prompt takes ``work`` s by itself."""
        sooner = work - gap
        if sooner < -noise:
            return
        self._alone *= _FADES
        self._shared *= _FADES
        if sooner > max(_APART * noise, _MIDDLE * work):
            # Another's first token came in the midst of this prompt. Of a long one that says that the engine turns to
            # one prompt and then to the other; a short one may lie in a single step.
            self._alone += work > _LONG * self.step
        elif sooner > _APART * noise:
            self._shared += 1
            # Where in the step the call began may be anywhere: half of a step on average.
            step = 2 * (sooner if not self.step else min(sooner, _ODD * self.step))
            self.step += (step - self.step) * max(1 / (self._shared + 1), 1 - _FADES)
        elif abs(sooner) < noise:
            self._alone += 1

    @property
    def share(self) -> float:
        """Of the calls that wait for another's prompt, how many begin in its last step."""
        shown = self._shared / (self._shared + self._alone + _BEFORE)
        return max(shown, _USUAL) if shown > _LEAST and self._shared > _ONE else 0.0

    @property
    def doubt(self) -> float:
        """How likely it still is that steps are shared, where that has not shown: the calls of this client that came
        close enough to each other to tell may have been few."""
        return _EITHER / (2 * _EITHER + self._alone)
