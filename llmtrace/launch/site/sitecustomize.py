"""Python runs this at the start of every program that ``llmtrace run`` starts, and of its children.

The environment's own ``sitecustomize``, which this one stands in front of, is run first.
"""

import os
import signal
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

_here = os.path.dirname(os.path.abspath(__file__))
_others = [place for place in sys.path if os.path.abspath(place or ".") != _here]
_spec = PathFinder.find_spec("sitecustomize", _others)
if _spec is not None and _spec.loader is not None:
    _module = module_from_spec(_spec)
    sys.modules["sitecustomize"] = _module
    _spec.loader.exec_module(_module)
sys.path[:] = _others

# Meanwhile Ctrl-C ends the program at once; otherwise Python would print where in our modules it was.
_interruptible = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _interruptible:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
try:
    from llmtrace.config import is_disabled
    from llmtrace.launch import destinations
except ImportError:
    pass  # a child with another interpreter, where llmtrace is not installed
else:
    if (_destination := destinations.from_environ(os.environ)) is not None and not is_disabled():
        from llmtrace.launch.configure import in_a_launched_program

        in_a_launched_program(_destination)
finally:
    if _interruptible:
        signal.signal(signal.SIGINT, signal.default_int_handler)
