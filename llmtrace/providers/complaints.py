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
_WHOSE = rf"(?:(?:your|that)(?: \w+){{0,2}}? |the(?: (?:{_OLD}|json|structured|extracted|tool)){{0,3}}? )"
_THE_ANSWER, _AN_ANSWER = _WHOSE + _ANSWER, rf"{_WHOSE}?{_ANSWER}"
_NOT = r"(?: (?:still )?(?:not|no)|n't)"
_CLOSES = r"(?=\s*(?:[^\w\s]|\Z))"
_VALID = rf"(?:(?:an? )?(?:valid|parseable|well-formed|{_FORM}{_CLOSES})|in (?:the|an?) (?:\w+ )?format\b)"
_LACKS = (
    r"(?:(?:is|are|was|were) missing|miss(?:es|ed)|lack(?:s|ed)|omit(?:s|ted)"
    r"|do(?:es)?(?: not|n't) (?:have|contain|include)) "
    r"(?:(?:the|a|an|one|some|its|following|required|mandatory) ){0,3}?"
    rf"(?:(?:fields?|propert(?:y|ies))(?: [\w.]+)?{_CLOSES}|keys?{_CLOSES}|['\"`][\w.]+(?=['\"`]))"
)
"""What an answer's form is without: an unnamed point or detail is none of it."""
_OF_FORM = (
    r"(?:schema|formats?|formatting|json|yaml|xml|structure|shape|syntax|grammar|types?|pattern|spec(?:ification)?s?"
    r"|constraints?|requirements?|validat\w+|checks?)"
)
_FAILS = (
    rf"(?:validate|parse|contain valid|(?:match|conform|pass|comply){_CLOSES}"
    rf"|(?:match|conform to|pass|follow|satisfy|meet|comply with) (?:[-\w]+ ){{0,4}}?{_OF_FORM})"
)
_WRONG = (
    rf"[^.\n?]{{0,60}}?\b(?:(?:is|are|was|were)(?:{_NOT} {_VALID}"
    r"| (?:still )?(?:invalid|malformed|unparseable|rejected))"
    rf"|{_LACKS}|(?:did|does|do)(?: not|n't) {_FAILS}"
    r"|fail(?:ed|s)(?: (?:the|our|my))?(?: \w+)? (?:validation|checks?|schema|parse|parsing|validate|with)|failed[:.!]"
    r"|violate[sd]?|(?:could|can)(?: ?not|n't|'t) be (?:\w+ )?(?:parsed|decoded|validated)"
    r"|(?:contain(?:s|ed)|had|has) (?:the following |\w+ )?(?:invalid|malformed|errors?|problems?|issues?))\b"
)
_GAVE = (
    r"return(?:ed)?|g[ai]ven?|sen[dt]|produced?|provided?|generated?|output(?:ted)?|(?:(?:answer|respond)(?:ed)?"
    r"|repl(?:y|ied)) with"
)
_CHECKED = r"(?:parsing|validating|decoding|reading)"
_OPENING = r"\W*(?:(?:observation|error|sorry|oops|feedback|unfortunately|no|but|hmm)\b\W+){0,3}"
_SENTENCE = re.compile(
    rf"{_OPENING}(?:{_AN_ANSWER}{_WRONG}"
    r"|(?:that|it)(?:(?:'s| is| was) (?:still )?not|(?: is| was)n't|'s(?: still)? no) "
    rf"(?:(?:an? )?(?:valid|parseable|well-formed)(?: {_FORM}|\s*(?:[:(.,;!]|\Z))|{_FORM}\s*(?:[:(.,;!]|\Z))"
    rf"|(?:that|it)(?:'s| is| was) (?:still )?(?:invalid|malformed)(?: {_FORM}|\s*(?:[:(.,;!]|\Z))"
    rf"|this(?: is not| isn't) (?:valid )?{_FORM}\s*(?:[.!]|\Z)"
    r"|(?:(?:invalid|malformed|unparseable) (?:output|response|answer|reply|format|(?:function|tool) calls?|arguments"
    r"|json|yaml|xml)(?: (?:output|response|format|structure))?|(?:wrong|bad|incorrect) (?:json|yaml|xml|schema))"
    r"\s*(?:[:.(!;,\-]|\Z)"
    r"|(?:wrong|bad|incorrect) (?:\w+ )?format\s*"
    r"(?:[.!]|\Z|[^\w\s][^\n]{0,40}?\b(?:json|ya?ml|xml|schema|expected|fields?)\b)"
    rf"|you (?:(?:have|just|again|still) )*(?:{_GAVE}) (?:(?:me|us|an?|some) )*"
    rf"(?:invalid|malformed|unparseable|broken) {_ANSWER}"
    rf"|you (?:(?:did|have)(?: not|n't)|failed to|never) (?:{_GAVE}) (?:(?:me|us|an?|any) )*"
    rf"(?:(?:valid|parseable|well-formed|proper) {_ANSWER}|{_FORM}{_CLOSES})"
    r"|json (?:parse|parsing|decod(?:e|ing)|syntax) ?(?:errors?|failed|failure)\s*[:.(]"
    r"|(?:(?:syntax|json|parse|parsing) ?){0,2}(?:error|failed|failure)?\W{0,3}"
    r"(?:unexpected|unterminated|expected|bad) [^\n]{0,80}?\b(?:in|after|of|valid) json\b"
    rf"|missing (?:required |mandatory )?(?:(?:fields?|propert(?:y|ies))(?: ['\"`]?[\w.]+['\"`]?)?|keys?){_CLOSES}"
    r"|(?:the )?(?:required )?(?:field|property|key) ['\"`][\w.]+['\"`] (?:is|was) (?:missing|required)\b"
    rf"|[^.\n?:]{{0,40}}?\b(?:errors?|exceptions?|problems?)\b(?: \w+){{0,3}}? {_CHECKED} {_AN_ANSWER}"
    rf"|{_CHECKED} {_THE_ANSWER} (?:raised|failed|gave|resulted)"
    r"|(?:i |we |the (?:parser|program|system|validator) )?"
    r"(?:could(?: not|n't)|cannot|can(?:'|no)t|(?:was |were |am |is )?unable to|failed to) (?:parse|decode|validate)"
    rf"(?:\s*[:(]| {_AN_ANSWER}| (?:that|it)\b(?: as\b|[.:(])| this\b(?: as\b|[.(]))"
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
_ELSEWHERE = re.compile(
    r"\A[^:\n]{0,200}?\b(?:the|an?|this|our|their|for|of|from|in|by) (?:\w+ )?"
    r"(?:logs?|files?|servers?|services?|api|requests?|database|apps?|clients?|users?|customers?|endpoint|config\w*|scripts?"
    r"|pages?|tickets?|jobs?|builds?)\b"
    r"|\b[-\w]{1,40}\.(?:json|ya?ml|xml|toml|ini|csv|log|md|sql|html?|[jt]sx?|py|go|rs)\b",
    re.IGNORECASE,
)
"""What names another thing in which the fault is: a file by its name, any other before a colon."""
_CLAUSE = (
    r"(?:\A|[^\w\s']\s*|'\s+|\n[^\S\n]*|\b(?:and|then|please|now|just|only|so|instead|kindly|or)\s+"
    r"|\b(?:you|sure|ensure|remember)(?: (?:that|to|you|must|should|need|have|can|only|please)){0,3}\s+)"
)
_ALONE = (
    rf"(?:{_CLOSES}"
    r"|(?=\s+(?:and|with|by|using|to|in|as|but|so|now|then|please|again|once|before|until|for|exactly)\b))"
)
_IT = (
    rf"(?:(?:it|them|this|that|these|those){_ALONE}"
    r"|(?:(?:the|your|this|that|these|those|all|any|an?) )?(?:\w+ ){0,3}?"
    r"(?:errors?|issues?|problems?|mistakes?|violations?|format(?:ting)?|schema|structure|syntax|fields?|function"
    rf"|following{_CLOSES}|{_ANSWER})\b(?! (?:in|of|on|at|from) (?!(?:your|it|them|the {_ANSWER})\b)))"
)
"""The answer or its faults, as what is to be mended."""
_MEND = (
    r"(?:retry|recall|resubmit|re-?(?:generate|extract|send|submit|write|do|answer|output)|fix|correct|repair|revise"
    r"|repeat)"
)
_BESIDE = (
    r"(?:me|us|back|with|in|as|for|and|to|using|the|an?|your|this|that|it|them|just|nothing|but|strictly|one|now|all"
    r"|raw|pure|plain|complete|full|entire|whole|correct(?:ed|ly)?|valid|fixed|new|revised|proper|properly|updated"
    r"|well-formed|formatted|single|required|missing|following|same|previous|last|given|requested|expected|structured"
    r"|parseable|tool|function|data|results?|question)"
)
"""Words that may stand beside an answer that is asked for: none that names another thing."""
_AGAIN = re.compile(
    rf"{_CLAUSE}(?:(?:try|do (?:it|that|this)) (?:it )?(?:again|once more)\b(?! later)"
    rf"|(?:once more|again|one more time){_ALONE}|only (?:valid |raw )?{_FORM}|(?:valid |raw )?{_FORM} only\b"
    rf"|(?:make sure|ensure)(?: that)? (?:{_THE_ANSWER}|it)\b|call the (?:tool|function) again\b"
    rf"|{_MEND}{_ALONE}|(?:{_MEND}|address|resolve) {_IT}"
    r"|(?:answer|respond|reply|return|output|provide|send|give|generate|produce|submit|emit|write|extract)"
    rf"(?: {_BESIDE}){{0,8}}? (?:again|once more|only|exactly|schema|format|fields?|object|array|{_ANSWER})\b)",
    re.IGNORECASE,
)
"""Orders to give the answer anew, or to mend it: none to do something with another thing."""
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
_ISSUES = re.compile(r'\[\s*\{\s*"(?:code|expected|received|origin|validation|note|values|keys|path|message)"\s*:')
_ISSUES_HEAD = re.compile(r"\W*(?:(?:zod|validation)? ?(?:errors?|issues?|problems?)\W*)?", re.IGNORECASE)
_ABOUT_ISSUES = re.compile(r"valid|schema|errors?\b|issues?\b|problems?\b", re.IGNORECASE)
_CODE = re.compile(
    r'"code"\s*:\s*"(?:custom|too_(?:small|big)|unrecognized_keys|not_(?:finite|multiple_of)|invalid_(?:type|literal|union'
    r"|union_discriminator|enum_value|arguments|return_type|date|string|format|value|key|element|intersection_types))\""
)
_PATH = re.compile(r'"path"\s*:\s*\[([^\]]{0,200})\]')
_NAMES = re.compile(r'"(\w+)"')
"""How zod lists what it found: a code, the path to it and a message for each."""
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
    said = said.replace("\u2019", "'")
    data = [json_in for each in answers if (json_in := _json_in(each)) is not None]
    formal = formal or bool(data)
    persons = _PERSONS.search(said) is not None
    reported = _PARSER.search(said[:_HEAD])
    if reported is not None and (int(reported[1]) > 1 or (formal and not persons)):
        words = reported[0].lower()
        if any((_error(_json_in(each) or each) or "").startswith(words) for each in answers):
            return True
    if data and (_is_report(said, data, quick) or (quick and not persons and _lists_issues(said, data))):
        return True
    return quick and not persons and _complains(said, data, formal) and _asks_again(said)


def _asks_again(said: str) -> bool:
    """Whether a message orders another answer. This takes the longest, so it is asked last."""
    return _AGAIN.search(said) is not None


def _complains(said: str, data: Sequence[str], formal: bool) -> bool:
    """Whether a message says in words that something is wrong with the form of ``data``."""
    if formal and _FIX_REPORTED.match(said):
        return True
    sentences = _sentences(said)
    if any(_finds_fault(each, formal) for each in sentences):
        return True
    first = [each for each in sentences if not _RULE.search(each)][:1]
    return any(_PARSES.search(each) and not _ELSEWHERE.search(each) for each in first) and any(map(_error, data))


def _sentences(said: str) -> list[str]:
    """Those near the beginning."""
    return _END.split(said[:_HEAD].strip())[:_SENTENCES]


def _finds_fault(sentence: str, formal: bool) -> bool:
    """Whether a sentence, which is no rule, is about the answer's form, and not about something else that it names."""
    if _RULE.search(sentence):
        return False
    return _OF_YOURS.match(sentence) is not None or (
        formal and _SENTENCE.match(sentence) is not None and not _ELSEWHERE.search(sentence)
    )


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


def _is_report(said: str, data: Sequence[str], quick: bool) -> bool:
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
    return quick and (at_once or (before.endswith("\n") and _asks_again(said)))


def _lists_issues(said: str, data: Sequence[str]) -> bool:
    """Whether a message is zod's list of issues with one of ``data``, alone or after words that find fault."""
    begun = _ISSUES.search(said[:_REPORT_HEAD])
    if begun is None:
        return False
    issues = said[begun.start() : begun.start() + _REPORT_HEAD]
    path = _PATH.search(issues)
    if path is None or not _CODE.search(issues) or '"message"' not in issues:
        return False
    names = _NAMES.findall(path[1])
    there = names[:-1] if "undefined" in issues else names
    if not any(all(f'"{name}"' in each for name in there) for each in data):
        return False
    before = said[: begun.start()]
    if _ISSUES_HEAD.fullmatch(before) or any(_finds_fault(each, True) for each in _sentences(before)):
        return True
    return _ABOUT_ISSUES.search(before) is not None and not _RULE.search(before) and _asks_again(said)


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
