"""The words by which programs say that an answer did not pass a check; and what people say, which is no such thing."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import pytest

from llmtrace.providers.reask import is_reask

PROMPT: list[Any] = [{"role": "system", "content": "Answer in JSON."}, {"role": "user", "content": "Who is it?"}]
GOOD, BROKEN = '{"name": "Ann"}', '{"name": "Ann" "age": 1}'
REPORT = (
    "1 validation error for Person\nage\n  Field required [type=missing, input_value={'name': 'Ann'}, "
    "input_type=dict]\n    For further information visit https://errors.pydantic.dev/2.10/v/missing"
)
ELSEWHERE = (
    "1 validation error for Settings\nport\n  Input should be a valid integer, unable to parse string as an integer "
    "[type=int_parsing, input_value='abc', input_type=str]"
)


def _error(written: str) -> str:
    with pytest.raises(ValueError, match="line") as caught:
        json.loads(written)
    return str(caught.value)


PARSER, NO_JSON = _error(BROKEN), _error("It is Ann.")


def after(answer: Any, said: Any, prompt: Sequence[Any] = PROMPT, **params: Any) -> dict[str, Any]:
    told = answer if isinstance(answer, dict) else {"role": "assistant", "content": answer}
    return {
        "messages": [*prompt, told, said if isinstance(said, dict) else {"role": "user", "content": said}],
        **params,
    }


OF_THE_PARSER = (
    f"Your previous response was not valid JSON: {PARSER}. Please fix it.",
    f"That was invalid: {PARSER}. Try again.",
    f"Invalid JSON: {PARSER}. Please respond with valid JSON only.",
    f"Error parsing response: {PARSER}. Please try again and return valid JSON.",
    f"Failed to parse: {PARSER}",
    f"Failed to parse your response as JSON: {PARSER}. Please try again.",
    f"I couldn't parse that as JSON ({PARSER}). Please return only JSON.",
    f"Your JSON is invalid: {PARSER}. Fix it.",
    f"There was an error: {PARSER}. Fix your answer.",
    f"There was an error parsing your response: {PARSER}. Please try again.",
    f"The JSON you returned is invalid: {PARSER}. Please return valid JSON.",
    f"json.decoder.JSONDecodeError: {PARSER}",
    f"{PARSER}",
    f"Your output could not be parsed: {PARSER}\nReturn valid JSON.",
    f"The response could not be parsed as JSON. Error: {PARSER}. Please respond again with valid JSON.",
    f"The following error occurred while parsing your response: {PARSER}. Please correct your response.",
    f"Error: {PARSER}\n\nPlease fix the JSON and try again.",
    f"Error: your response was not valid JSON ({PARSER}). Please try again.",
    f"Sorry, that is not valid JSON. {PARSER} Please answer with valid JSON.",
    f"That's not valid JSON: {PARSER}. Please fix.",
    f"I got this error when parsing your answer: {PARSER}. Please fix it and respond with JSON only.",
    f"Parsing your answer raised: {PARSER}. Reply with valid JSON.",
    f"The JSON was malformed: {PARSER}. Output only JSON.",
    f"The JSON is invalid: {PARSER}. Output only JSON.",
    f"Your last response contained invalid JSON. {PARSER}. Please respond again.",
)
OF_A_VALIDATOR = (
    f"The output failed validation:\n{REPORT}\nPlease correct it.",
    f"ValidationError: {REPORT}",
    f"{REPORT}",
    f"Please fix the following validation errors:\n{REPORT}",
    f"Please fix the following errors and try again:\n{REPORT}",
    f"Validation error: {REPORT}\nReturn the corrected JSON.",
    f"Validation failed: {REPORT}\nPlease try again.",
    f"Fix this error and answer again: {REPORT}",
    f"Your response did not match the required schema: {REPORT}. Please return a corrected response.",
    f"Your previous output had the following errors: {REPORT}. Fix them.",
    f"The extraction failed validation with: {REPORT}. Please re-extract.",
)
OF_A_LIBRARY = (
    "Error:\nError in code parsing:\nYour code snippet is invalid, because the pattern was not found. Now let's retry.",
    "Observation: Error: Could not parse output. Please follow the thought-action-input format. Try again.",
    f"Recall the function correctly, fix the errors, exceptions found\n{REPORT}",
    f"Validation Error due to no tool invocation:\n{REPORT}\nRecall the function correctly, fix the errors",
    f"Correct your JSON response: {GOOD}, based on the following errors:\n{REPORT}",
    "The following generated JSON does not conform to the provided schema.\nGenerated JSON: {}\nError details: ...",
)
IN_OTHER_WORDS = (
    "Schema validation failed: 'age' is a required property. Return corrected JSON.",
    "Could not parse output. Please follow the thought-action-input format. Try again.",
    "Your answer did not pass validation: age must be positive. Try again.",
    "Your last answer failed validation: age must be >= 0. Correct it.",
    "Invalid output. Error: age must be >= 0. Please try again.",
    "Invalid response: missing field 'age'. Try again.",
    "Your response does not conform to the schema. Errors: ['age' is required]. Please try again.",
    "The previous answer was rejected by the validator: age missing. Answer again.",
    "Your answer was rejected: age missing. Please answer again.",
    "Wrong format. Answer with exactly one word.",
    "Validation errors:\n- age: field required\nPlease fix and return the complete JSON.",
    "That is not JSON. Reply with JSON only.",
    "That's still not JSON. Reply with JSON only.",
    "This isn't valid JSON. Try again.",
    "That wasn't valid JSON. Try again.",
    "Your response isn't valid JSON. Return only JSON.",
    "The response isn't valid JSON. Try again.",
    "The response wasn't valid JSON. Try again.",
    "Your answer doesn\u2019t match the schema. Try again.",
    "Output did not match the schema. Try again.",
    "Your response was not in the correct format. Try again.",
    "You returned invalid JSON. Try again.",
    "You gave me malformed JSON, please resend it.",
    "You did not return valid JSON. Please try again.",
    "You didn't return JSON. Reply with JSON only.",
    "Parse error: Unexpected token } in JSON at position 12. Return only the JSON.",
    "SyntaxError: Unexpected end of JSON input. Please return valid JSON.",
    "Unexpected token 'I', \"It is Ann.\" is not valid JSON. Reply with JSON only.",
    "JSON parsing failed. Return only JSON.",
    "Your JSON is missing the required field 'b'. Return it again.",
    "Your response does not include the required key 'b'. Try again.",
    "The response is missing required fields: a, b. Please return all fields.",
    "Missing field: b. Return the corrected JSON.",
    "Your JSON is missing 'b'. Fix it.",
    "Field 'b' is missing. Return the full JSON.",
    "Wrong format: expected JSON. Try again.",
    "Validation failed: b is required. Call the tool again with valid arguments.",
    "Invalid JSON. Please make sure your response is valid JSON.",
    "Invalid output. Please fix the following:\n- b: required",
    "The output was invalid. Do it again.",
    "Error parsing your response. You must return valid JSON.",
    "Could not parse your response. Please repeat your answer in valid JSON.",
)
ABOUT_ANOTHER_THING = (
    "That is not valid. The customer said it again.",
    "The first response did not match the customer's address. Extract the next one again.",
    "The generated output does not match the expected picture. Rewrite the prompt as JSON.",
    "Your answer doesn\u2019t match the picture. Try again.",
    "Validation failed. Classify this log line again.",
    "Validation failed for the user form. Summarize again as JSON.",
    "Error parsing JSON in the log of service x. Classify, return JSON.",
    "Parse error in the log. Return JSON with its severity.",
    "JSON validation error: see log. Correct the server's code.",
    "The response was invalid for user 3; retry the job and give its status as JSON",
    "The user returned invalid JSON. Classify it again.",
    "Bad format: MP4. Convert and give JSON again",
    "Wrong format of the photo. Convert it.",
    "Fix the JSON errors: file config.json is broken, rewrite it",
    "SyntaxError: Unexpected token } in JSON at position 12 in package.json. Fix it.",
    "npm ERR! Unexpected token } in JSON at position 12. Fix the build script.",
    "Can't parse this: 'foo(bar' - fix the code",
    "Failed to parse (line 3): 1+*2. Correct the formula",
    "The file is missing the field b. Fix the file.",
    "Missing field: address. Correct the form.",
    "Your answer is missing a key point. Try again.",
    "Your answer lacks detail. Rewrite it.",
    "You returned the wrong person. Try again.",
    "You did not answer my question. Try again.",
    "You didn't return the right city. Try again.",
    "The response isn't helpful. Try again.",
)
ISSUES = (
    '[{"code":"invalid_type","expected":"string","received":"undefined","path":["b"],"message":"Required"}]',
    json.dumps(
        [
            {"origin": "string", "code": "too_small", "minimum": 5, "path": ["name"], "message": "Too small"},
            {"code": "unrecognized_keys", "keys": ["name"], "path": [], "message": "Unrecognized key"},
        ],
        indent=2,
    ),
)
ORDINARY = (
    "How old is she?",
    "Are you sure? Try again.",
    "That's wrong. Try again.",
    "No, that is not what I meant. Answer again, shorter.",
    "Can you fix the typo in your answer?",
    "Please correct the spelling.",
    "Thanks! Now return the same as YAML.",
    "Now give me the JSON for Bob.",
    "Respond only in JSON from now on.",
    'My JSON is invalid: {"a": }. Can you fix it?',
    'This JSON is invalid: {"a": }. Fix it and return only valid JSON.',
    'Why is this JSON invalid? {"a":1,}',
    "Fix this JSON: {'a': 1}",
    'Validate this JSON and fix the errors: {"a": 1,}',
    "What does 'Validation error: field required' mean?",
    "I get 'Validation error: name is required' when I submit the form. How do I fix it?",
    "Validation error in my Django form, please correct my code.",
    "Validation errors appear in the UI. Fix the wording.",
    "The JSON file is not valid. Please fix it: {a:1}",
    "The JSON below is invalid. Return only valid JSON.\n{a:1}",
    "The output of my program is invalid, correct it",
    "The response from the API is invalid JSON: <html>. How do I fix my client?",
    "The API response failed validation. How do I retry?",
    "JSONDecodeError: Expecting value: line 1 column 1 (char 0) - how do I fix this in my code?",
    "I got json.decoder.JSONDecodeError: Expecting value: line 1 column 1 (char 0) from requests. Fix?",
    f"{ELSEWHERE}",
    f"My app crashes with:\n{ELSEWHERE}\nHow do I fix it?",
    f"Please fix the following error in my app:\n{ELSEWHERE}",
    f"Classify this log line:\n{ELSEWHERE}",
    f"Next log line: {ELSEWHERE}",
    "'abc' is not of type 'integer' says my linter. How do I fix it?",
    "This is not valid JSON: {a:1}. Fix it and return only JSON.",
    "That is not JSON-LD, is it? Try again.",
    "It's not valid to say JSON is text. Try again.",
    f"Explain this error and correct my config: {ELSEWHERE}",
    "Could not parse config.yaml. Please fix the file.",
    "Failed to parse the JSON file. Give me valid JSON.",
    "Failed to parse Cargo.toml, try again later",
    "cannot parse date '2024-13-01'. Fix the date.",
    "Error: file not found. Try again.",
    "Traceback (most recent call last):\n  File 'a.py', line 1\nValueError: invalid literal. Fix it.",
    "error TS2304: Cannot find name 'x'. Fix it.",
    "The tests failed:\nFAILED test_a.py::test_b - assert 1 == 2\nFix the code and try again.",
    "The build failed. Please fix the errors and try again.",
    "Your answer is too long. Answer again with only one sentence.",
    "Your answer is wrong, the capital is Bern. Correct it.",
    "Your response is not helpful. Try again.",
    "Your answer is not correct. Try again.",
    "Your answer did not answer my question. Try again.",
    "Your reply was rude. Try again.",
    "The answer is 42. Return only valid JSON with it.",
    "The response should be valid JSON. Respond again?",
    "If your answer is not valid JSON, I cannot use it. Answer only with JSON.",
    "When your output is invalid you must try again. Next: Bob.",
    "Make sure your output is not invalid JSON. Next: Carl, return only JSON.",
    "Your output should never contain invalid JSON. Now Dora, JSON only.",
    "Rate the following answer: 'Your response is not valid JSON'. Give only a number.",
    "Translate into German: 'Your answer is not valid JSON. Please try again.'",
    "Translate: Invalid JSON. Please try again.",
    "Write an error message that says the JSON is invalid and asks the user to try again.",
    "Summarize: The output failed validation. The team must fix it.",
    "Is it valid JSON? If so return only it.",
    "Does your answer conform to the schema? If not, fix it.",
    "What happens if the response could not be parsed? Answer in JSON.",
    "Continue.",
    "continue",
    "go on",
    "more",
    "Next.",
    "ok",
    "Repeat that.",
    "Say that again, please.",
    "once more",
    "Repeat the JSON only.",
    "retry",
    "Try again",
    "again",
    "Regenerate",
    "Can you redo that with age 30?",
    "Observation: 42",
    "Observation: Error: city not found",
    "Observation: Error: invalid arguments for tool search: missing query. Try again.",
    'Tool result: {"error": "invalid"}',
    "Ticket 12: 'Invalid response: server returned 500. Please retry.'",
    "User 5 says: your JSON is invalid, please fix. Classify the sentiment as JSON only.",
    "Classify: 'Your output could not be parsed. Try again.'",
    "Review: The output is invalid and malformed. Give only JSON.",
    "The reviewer says: the argument is not valid. Please revise.",
    "As the critic: the response lacks sources. Revise it.",
    "Feedback: the tone is too formal. Rewrite.",
    "Reviewer: does not meet the style guide, rewrite the intro.",
    "The draft does not meet the requirements. Please rewrite it.",
    "I could not validate that claim. Give only sources.",
    "Can't parse that sentence. Say it again?",
    "I can't read that. Answer again in a bigger font.",
    "I don't understand. Explain again.",
    "Format error on page 3. Correct the table.",
    "Wrong answer! Try again.",
    "Bad answer. Try again.",
    "Invalid move. Try again.",
    "Invalid argument: your premise is false. Try again.",
    "Invalid password, try again",
    "Wrong response, it is B. Try again.",
    "It is not valid to say so. Correct yourself.",
    "That is not a valid excuse. Try again.",
    "That is invalid reasoning. Try again.",
    "that was wrong, again please",
    "Handing off to the JSON agent: please fix the schema issues of the ticket.",
    "Fix the JSON formatting issues in my README",
    "Fix the schema errors in db.sql: relation missing",
    "Please fix the format: use bullet points.",
    "Fix the validation issues in my form code.",
    "Assertion failed: x > 0 in my C program. Fix it.",
)


@pytest.mark.parametrize("said", OF_THE_PARSER)
def test_a_parser_s_words_about_the_answer(said: str) -> None:
    assert is_reask(after(BROKEN, said), True)


@pytest.mark.parametrize("said", [NO_JSON, f"json.decoder.JSONDecodeError: {NO_JSON}", f"Error: {NO_JSON}. Try again."])
def test_an_answer_that_is_no_json_at_all(said: str) -> None:
    assert is_reask(after("It is Ann.", said), True)
    assert not is_reask(after(GOOD, said), True), "this answer is JSON"
    assert not is_reask(after("It is Ann.", f"{said} What is that?"), True)


@pytest.mark.parametrize("said", OF_A_VALIDATOR)
def test_a_validator_s_words_about_the_answer(said: str) -> None:
    assert is_reask(after(GOOD, said), True)


@pytest.mark.parametrize("said", ["'abc' is not of type 'integer'", "abc is not one of [1, 2]\n\nOn instance['age']"])
def test_jsonschema_s_words_about_the_answer(said: str) -> None:
    assert is_reask(after('{"age": "abc"}', said), True)
    assert not is_reask(after('{"age": "abd"}', said), True), "it is about something else"


@pytest.mark.parametrize("answer", [GOOD, "It is Ann."])
@pytest.mark.parametrize("said", IN_OTHER_WORDS)
def test_a_program_s_own_words(said: str, answer: str) -> None:
    assert is_reask(after(answer, said), True)
    for params in ({}, {"response_format": {"type": "json_object"}}):
        assert not is_reask(after(answer, said, **params), False), "a person may say that"


@pytest.mark.parametrize("issues", ISSUES, ids=["of zod 3", "of zod 4"])
@pytest.mark.parametrize(
    "told",
    [
        "{}",
        "ZodError: {}",
        "Your answer has the following issues:\n{}",
        "Validation failed: {}",
        "The following issues were found:\n{}\nReturn the corrected JSON.",
        "Fix these validation issues: {}",
    ],
)
def test_zod_s_issues_with_the_answer(told: str, issues: str) -> None:
    said = told.format(issues)
    assert is_reask(after(GOOD, said), True)
    assert not is_reask(after(GOOD, said), False), "a person may say that"
    deeper = told.format(re.sub(r'("path":\s*\[)', r'\1"rows", 3, ', issues))
    assert is_reask(after(GOOD, deeper), True) is told.startswith("Fix"), (
        "only where it says so: there is no such place"
    )


@pytest.mark.parametrize("issues", ISSUES, ids=["of zod 3", "of zod 4"])
@pytest.mark.parametrize(
    "told", ["Classify this log line:\n{}", "Next log line: {}", "My form gives {} - fix it", "Why {}? Try again."]
)
def test_zod_s_issues_with_something_else(told: str, issues: str) -> None:
    assert not is_reask(after(GOOD, told.format(issues)), True)


@pytest.mark.parametrize("said", OF_A_LIBRARY)
def test_a_library_s_words(said: str) -> None:
    assert is_reask(after("It is Ann.", said), False)


def test_a_validator_s_report_as_a_tool_s_result() -> None:
    """What a loop by hand sends back for a tool that is no tool: it quotes the arguments."""
    used = {"type": "tool_use", "id": "t", "name": "Person", "input": {"name": "Ann"}}
    result = {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": REPORT}]}
    assert is_reask(after({"role": "assistant", "content": [used]}, result), True)
    used["input"] = {"path": "a.log"}
    assert not is_reask(after({"role": "assistant", "content": [used]}, result), True), "the tool has read it somewhere"
    called = {"id": "c", "type": "function", "function": {"name": "Person", "arguments": GOOD}}
    told = {"role": "tool", "tool_call_id": "c", "content": REPORT}
    assert is_reask(after({"role": "assistant", "tool_calls": [called]}, told), True)


@pytest.mark.parametrize("said", ['{"error":"Not she."}', "Not she.\n\nFix the errors and try again."])
def test_an_application_s_own_check_in_pydantic_ai(said: str) -> None:
    """What it refuses is the result of the tool that gives the answer; any other tool's is a tool's."""
    told = {"role": "tool", "tool_call_id": "c", "content": said}
    for name, repairs in (("final_result", True), ("final_result_Person", True), ("look_up", False)):
        called = {"id": "c", "type": "function", "function": {"name": name, "arguments": GOOD}}
        assert is_reask(after({"role": "assistant", "tool_calls": [called]}, told), True) is repairs
    used = {"type": "tool_use", "id": "t", "name": "final_result", "input": {"name": "Ann"}}
    result = {"type": "tool_result", "tool_use_id": "t", "content": said}
    assert is_reask(after({"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}), True)
    result["content"] = "Final result processed."
    assert not is_reask(after({"role": "assistant", "content": [used]}, {"role": "user", "content": [result]}), True)


def test_an_answer_that_stands_in_the_complaint() -> None:
    """As instructor tells a response's function call: there is no message of the model's."""
    told = f"Validation Error found:\n{REPORT}\nRecall the function correctly, fix the errors with {GOOD}"
    by_hand = f"Your previous reply was not valid JSON: {BROKEN}\nReply with JSON only."
    for said in (told, by_hand):
        assert is_reask({"input": [PROMPT[1], {"role": "user", "content": said}]}, True)
    assert not is_reask({"input": [{"role": "user", "content": told}, PROMPT[1]]}, True)
    assert not [said for said in ORDINARY if is_reask({"messages": [*PROMPT, {"role": "user", "content": said}]}, True)]


@pytest.mark.parametrize("answer", [GOOD, BROKEN, "It is Ann."])
@pytest.mark.parametrize("said", ABOUT_ANOTHER_THING)
def test_what_is_wrong_with_another_thing(said: str, answer: str) -> None:
    for params in ({}, {"response_format": {"type": "json_object"}}):
        assert not is_reask(after(answer, said, **params), True)


CODE = '```python\nPerson(name="Ann")\n```'


@pytest.mark.parametrize("quick", [True, False])
@pytest.mark.parametrize("params", [{}, {"response_format": {"type": "json_object"}}], ids=["plain", "in JSON"])
@pytest.mark.parametrize("answer", [GOOD, "It is Ann.", '```json\n{"a": 1}\n```', CODE], ids=range(4))
def test_what_people_say(answer: str, params: dict[str, Any], quick: bool) -> None:
    asked = (PROMPT, [{"role": "user", "content": "Who is it?"}])
    told = [said for said in ORDINARY for prompt in asked if is_reask(after(answer, said, prompt, **params), quick)]
    assert not told
