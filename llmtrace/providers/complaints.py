"""The words by which a program says that an answer did not pass its check, and asks for another.

Of libraries whole messages are known, from their beginning. A loop by hand has words of its own: what counts there is a
sentence near the beginning that finds fault with the answer's form, beside words that ask again, or the report of a
parser or validator about that very answer. Rules for answers ("if yours is not valid ...") and questions find none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

_REPORT = r"\d+ validation errors? for [^\n]+\n"
"""How pydantic begins what it found."""
_LIBRARY = re.compile(
    r"\s*(?:validation error(?:s|\(s\))? (?:found|due to no tool invocation):"  # instructor's, down to recall
    r"|correct your json (?:only response\b|response: )|correct the following json response, based on the errors"
    r"|recall the function (?:arguments )?correctly\b"
    r"|your previous response failed the application's validation|\{\"error\": ?\[\{\"type\": ?\"\w+\", ?\"loc\": ?\["
    r"|the following generated json does not conform to the provided schema"  # haystack
    r"|(?:error:\s*)?error in code parsing:"  # smolagents
    r"|(?:observation: )?error: could not parse output\. please follow the thought-action-input format)"  # llama-index
    rf"|\s*(?:validation feedback:|\d+ validation errors?:\s*\n|(?:error: )?{_REPORT}|error invoking tool '"
    r"|error: failed to parse structured output).*"  # pydantic-ai; LangGraph: these by their end too
    r"(?:fix the errors? and try again|please fix your mistakes)\.?\s*\Z",
    re.IGNORECASE | re.DOTALL,
)

FINAL_RESULT = "final_result"
"""How the tools begin by which pydantic-ai has an answer given."""
_REFUSED = re.compile(r"\s*\{\"error\": ?\"|.*fix the errors and try again\.\s*\Z", re.IGNORECASE | re.DOTALL)

_HEAD, _REPORT_HEAD = 600, 2400
"""Characters in which a message comes to its point, and in which a report has quoted something."""
_SENTENCES = 4
_END = re.compile(r"(?<=[.!?])\s+|\n+")
_NOT_OF_ANSWERS = r"(?! (?:files?|from|of|body|config\w*|documents?|endpoint|api|codes?|page|below|above|attached)\b)"
_FORM = rf"(?:json|yaml|xml){_NOT_OF_ANSWERS}"
_ANSWER = (
    rf"(?:(?:answer|response|output|reply|completion|arguments|(?:function|tool) call){_NOT_OF_ANSWERS}|{_FORM})\b"
)
_OLD = (
    r"previous|last|latest|first|prior|original|earlier|generated|returned|provided|given|model's|assistant's|final|raw"
)
_THE_ANSWER = rf"(?:(?:your|that)(?: \w+){{0,2}}?|the(?: (?:{_OLD}|json|structured|extracted|tool)){{0,3}}?) {_ANSWER}"
_WRONG = (
    r"[^.\n?]{0,60}?\b(?:(?:is|are|was|were) (?:(?:still )?(?:not|no) (?:an? )?valid|invalid|malformed|unparseable|"
    r"not parseable|rejected)"
    r"|(?:did|does|do)(?: not|n't) (?:match|conform|validate|parse|pass|follow|satisfy|meet|comply|contain valid)"
    r"|fail(?:ed|s)(?: (?:the|our|my))?(?: \w+)? (?:validation|checks?|schema|parse|parsing|validate|with)|failed[:.!]"
    r"|violate[sd]?|(?:could|can)(?: ?not|n't|'t) be (?:\w+ )?(?:parsed|decoded|validated)"
    r"|(?:contain(?:s|ed)|had|has) (?:the following |\w+ )?(?:invalid|malformed|errors?|problems?|issues?))\b"
)
_CHECKED = r"(?:parsing|validating|decoding|reading)"
_OPENING = r"\W*(?:(?:observation|error|sorry|oops|feedback|unfortunately|no|but|hmm)\b\W+){0,3}"
_SENTENCE = re.compile(
    rf"{_OPENING}(?:{_THE_ANSWER}{_WRONG}"
    r"|(?:that|it)(?:(?:'s| is| was) (?:still )?not|(?: is| was)n't|'s(?: still)? no) "
    rf"(?:(?:an? )?(?:valid|parseable|well-formed)(?: {_FORM}|\s*(?:[:(.,;!]|\Z))|{_FORM}\s*(?:[:(.,;!]|\Z))"
    rf"|(?:that|it)(?:'s| is| was) (?:still )?(?:invalid|malformed)(?: {_FORM}|\s*(?:[:(.,;!]|\Z))"
    rf"|this(?: is not| isn't) (?:valid )?{_FORM}\s*(?:[.!]|\Z)"
    r"|(?:(?:invalid|malformed|unparseable) (?:output|response|answer|reply|format|(?:function|tool) calls?|arguments"
    r"|json|yaml|xml)|(?:wrong|bad|incorrect) (?:json|yaml|xml|schema|(?:\w+ )?format))\s*(?:[:.(!;,\-]|\Z)"
    rf"|[^.\n?:]{{0,40}}?\b(?:errors?|exceptions?|problems?)\b(?: \w+){{0,3}}? {_CHECKED} (?:{_THE_ANSWER}|{_ANSWER})"
    rf"|{_CHECKED} {_THE_ANSWER} (?:raised|failed|gave|resulted)"
    r"|(?:i |we |the (?:parser|program|system|validator) )?"
    r"(?:could(?: not|n't)|cannot|can(?:'|no)t|(?:was |were |am |is )?unable to|failed to) (?:parse|decode|validate)"
    rf"(?:\s*[:(]| {_THE_ANSWER}| {_ANSWER}| (?:that|it|this)\b(?: as\b|[.:(]))"
    r"|(?:(?:json|schema|output|pydantic|response|answer|format) )?validation"
    r"(?: errors?| failed| failure|error)(?: (?:for|in|with|of) (?:your|the) \w+)?\s*[:.]"
    r"|(?:please )?(?:fix|correct|address|resolve) (?:(?:the|these|this|all|following|of) )*"
    r"(?:validation|schema|json|parsing|format|formatting) (?:errors?|issues?|problems?)\s*(?:[:.]|\Z|and\b)"
    r"|the (?:extraction|extracted \w+|object|result) (?:failed|did not pass) (?:the )?(?:\w+ )?validation\b)",
    re.IGNORECASE,
)
"""A sentence that finds fault with an answer's form."""
_OF_YOURS = re.compile(rf"{_OPENING}(?:\w+,? ){{0,12}}?your (?:\w+ ){{0,2}}?{_ANSWER}{_WRONG}", re.IGNORECASE)
_RULE = re.compile(
    rf"\b(?:if|when(?:ever)?(?! {_CHECKED})|unless|in case)\b|\?\s*\Z"
    r"|\A[^\n]{0,40}?\b(?:should|must|make sure|ensure|never|always|next|classify|explain|why|how|what|is|are|was) "
    r"(?:your|the|that|this|it)\b",
    re.IGNORECASE,
)
"""What makes of such a sentence a rule for answers, or a question."""
_AGAIN = re.compile(
    r"\b(?:fix|correct(?:ed|ly|ion)?|try again|retry|recall|redo|regenerate|resubmit|once more|again|re-?\w*generate"
    r"|re-?extract|rewrite)\b"
    r"|\b(?:answer|respond|reply|return|output|provide|send|give)\b[^.?]{0,40}\b(?:only|valid|schema|json|exactly)\b",
    re.IGNORECASE,
)
"""Words that ask for another answer."""
_PERSONS = re.compile(r"\bmy\b|\?\s*\Z", re.IGNORECASE)
"""What no program says to a model of its answers."""
_ABOUT_FORM = re.compile(r"json|schema|\byaml\b|\bxml\b|\bformat|\bfields?\b|\bstructured\b", re.IGNORECASE)
_FIX_REPORTED = re.compile(
    rf"\W*(?:please )?(?:fix|correct) (?:the|this|these) (?:\w+ )?errors?\b[^\n]{{0,80}}\n?\s*{_REPORT}", re.IGNORECASE
)
_PARSER = re.compile(
    r"(?:expecting|unterminated|invalid|extra data|illegal)[^\n]*? line \d+ column (\d+)(?: \(char \d+\))?",
    re.IGNORECASE,
)
"""The words of Python's parser of JSON."""
_VALIDATOR = re.compile(
    rf"(?<!\d){_REPORT}|'\w+' is a required property"
    r"|(?P<value>'[^'\n]{0,80}'|(?<![-\w.])[-\w.]+) is not (?:of type|one of) ['\[]",
    re.IGNORECASE,
)
"""How pydantic's reports begin, and what jsonschema says."""
_QUOTED = re.compile(r"input_value=(.*?), input_type=")
_PARSES = re.compile(r"json|pars|valid|malformed|decod|schema|delimiter", re.IGNORECASE)
_JSON = re.compile(r"\s*(?:```(?:json)?\s*)?(?P<json>[\[{])", re.IGNORECASE)
_LITERAL = re.compile(r"\w+(?:[.-]\w+)*")


def is_a_librarys(said: str) -> bool:
    """Whether a library that wants structure has written the message, whoever is said to speak."""
    return _LIBRARY.match(said) is not None


def is_no_final_result(said: str) -> bool:
    """Whether the result of such a tool says that an application's own check has refused the answer."""
    return _REFUSED.match(said) is not None


def finds_fault(said: str, answers: Sequence[str], formal: bool, quick: bool) -> bool:
    """Whether a message says what is wrong with the form of the answer before it.

    ``answers``: the texts of that answer and the arguments of its calls; ``formal``: the request is about answers in a
    set form; ``quick``: no person has read the answer in that time.
    """
    data = [json_in for each in answers if (json_in := _json_in(each)) is not None]
    formal = formal or bool(data)
    persons = _PERSONS.search(said) is not None
    reported = _PARSER.search(said[:_HEAD])
    if reported is not None and (int(reported[1]) > 1 or (formal and not persons)):
        words = reported[0].lower()
        if any((_error(_json_in(each) or each) or "").startswith(words) for each in answers):
            return True
    again = _AGAIN.search(said) is not None
    if data and _is_report(said, data, again, quick):
        return True
    if persons or not again or not quick:
        return False
    if formal and _FIX_REPORTED.match(said):
        return True
    sentences = [each for each in _END.split(said[:_HEAD].strip())[:_SENTENCES] if not _RULE.search(each)]
    if any(_OF_YOURS.match(each) or (formal and _SENTENCE.match(each)) for each in sentences):
        return True
    return any(map(_PARSES.search, sentences[:1])) and any(map(_error, data))


def is_about_form(said: str) -> bool:
    """Whether a prompt speaks of the form that answers are to have."""
    return _ABOUT_FORM.search(said) is not None


def _json_in(answer: str) -> str | None:
    """The JSON that an answer is, or tries to be, without its fence; None where it is something else."""
    begun = _JSON.match(answer)
    if begun is None:
        return None
    body, fence, _ = answer[begun.start("json") :].rpartition("```")
    return body if fence else answer[begun.start("json") :]


def _error(written: str) -> str | None:
    """What Python's parser of JSON says of a text, in lower case; None where it is JSON."""
    try:
        json.loads(written)
    except ValueError as error:
        return str(error).lower()
    except RecursionError:
        pass
    return None


def _is_report(said: str, data: Sequence[str], again: bool, quick: bool) -> bool:
    """Whether a message is a validator's report about one of ``data``."""
    reported = _VALIDATOR.search(said[:_REPORT_HEAD])
    if reported is None:
        return False
    if _quoted(said):
        return quotes(said, data)
    value = reported["value"]
    if value is not None and not any(value.strip("'") in each for each in data):
        return False
    before = said[: reported.start()]
    at_once = re.fullmatch(r"\W*(?:validation ?errors?\W*)?", before, re.IGNORECASE) is not None
    return quick and (at_once or (again and before.endswith("\n")))


def _quoted(said: str) -> set[str]:
    """The words and numbers of the values that pydantic quotes in a report."""
    head = said[:_REPORT_HEAD]
    if not _VALIDATOR.search(head):
        return set()
    return {literal for value in _QUOTED.findall(head) for literal in _LITERAL.findall(value)}


def quotes(said: str, data: Sequence[str]) -> bool:
    """Whether a message is a validator's report that quotes what one of ``data`` says: most of it, since pydantic cuts
    long values short and spells some in Python's way.
    """
    quoted = _quoted(said)
    return bool(quoted) and any(3 * sum(literal in each for literal in quoted) >= 2 * len(quoted) for each in data)
