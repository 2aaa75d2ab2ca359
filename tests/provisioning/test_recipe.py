"""A broken recipe is refused with the line, the key and what to write; a good one is read as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.errors import ConfigError
from provisioning import recipe as module
from provisioning.device import KeyOrigin
from provisioning.recipe import check_recipe, read_recipe
from provisioning.recipe_model import Expect, Recipe, Run
from provisioning.recipe_table import line_of

RECIPES = Path(module.__file__).parent / "recipes"
GOOD = (RECIPES / "linux-shell.toml").read_text()

#: A whole recipe in a few lines, with a place for each mistake.
SMALL = """\
format = 1
name = "small"
[key_types]
"p-256" = "ec"
[values]
directory = "/id"
[secrets]
password = "credential:device"
[frame]
send = "{command};echo {token}$?"
end = '^{token}(?P<status>[0-9])$'
ok = "0"
[[identify]]
run = "chip"
into = "chip"
[[generate_key]]
run = "key {key_type}"
[[read_csr]]
run = "csr {subject}"
into = "said"
[[read_csr]]
capture = "csr"
from = "{said}"
decode = "hex"
[[write]]
upload = "certificate"
as = "hex"
[[reset]]
send = "reset"
[[read_back]]
capture = "certificate"
from = "{directory}"
decode = "hex"
"""


def line_with(text: str, part: str) -> int:
    return next(number for number, line in enumerate(text.split("\n"), 1) if part in line)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_that_is_shipped_is_whole(path: Path) -> None:
    recipe = read_recipe(path.read_text(), path.name)
    assert recipe.name == path.stem
    assert recipe.about
    assert KeyOrigin.DEVICE in recipe.keys


def test_a_small_recipe_is_read_as_it_stands() -> None:
    recipe, problems = check_recipe(SMALL)
    assert problems == []
    assert isinstance(recipe, Recipe)
    assert recipe.methods["identify"][0].action == Run("chip", "chip")
    assert recipe.secrets == {"password": "credential:device"}
    assert all(step.within_s > 0 for steps in recipe.methods.values() for step in steps), "every step has a deadline"


#: (what is replaced, by what, the key in the answer, words of the answer)
BROKEN = [
    ("format = 1", "format = 2", "format", "is 1: this gateway knows no other"),
    ("format = 1\n", "", "format", "is missing"),
    ('name = "small"', "name = 7", "name", "is a text in quotes"),
    ('name = "small"', 'name = "Acme PLC"', "name", "small letters, digits and -"),
    ('name = "small"\n', "", "name", "is missing"),
    ("[values]", "[value]", "value", "did you mean values?"),
    ("[[identify]]", "[identify]", "identify", "write [[identify]] before each"),
    ("[[identify]]", "[[identfy]]", "identfy", "did you mean identify?"),
    ('directory = "/id"', "directory = 5", "values.directory", "is a text in quotes"),
    ('directory = "/id"', 'Directory = "/id"', "values.Directory", "small letters"),
    ('"credential:device"', '"swordfish"', "secrets.password", "the secret itself stands in no recipe"),
    ('"p-256" = "ec"', '"p256" = "ec"', "key_types.p256", "is no key type; there are brainpoolp256r1"),
    ('[key_types]\n"p-256" = "ec"\n', "", "key_types", "which keys can it make"),
    ("{command};echo", "echo", "frame.send", "lacks {command}"),
    ("{command};echo {token}", "{command};echo {tokn}", "frame.send", "{tokn} is not known here"),
    ("end = '^{token}(?P<status>[0-9])$'\n", "", "frame.end", "by which line is an answer known to be over?"),
    ("(?P<status>[0-9])", "[0-9]", "frame.ok", "needs a group in end"),
    ("^{token}(?P", "^{toke}(?P", "frame.end", "{toke} is not known here; did you mean {token}?"),
    ("(?P<status>[0-9])", "(?P<status>([0-9]+)+)", "frame.end", "only single characters may be repeated"),
    ('send = "{command}', 'sent = "{command}', "frame.sent", "did you mean send?"),
    ('into = "chip"\n', "", "identify", "leaves no chip behind"),
    ('into = "chip"', 'into = "Chip"', "identify[1].into", "small letters"),
    ('into = "chip"', 'into = "token"', "identify[1].into", "token is taken"),
    ('run = "chip"', 'run = "{secret.password}"', "identify[1].run", "may stand in send, again and answers only"),
    ('run = "chip"', 'run = "{secret.pin}"', "identify[1].run", '[secrets] pin = "credential:NAME"'),
    ('run = "chip"', 'run = "chip"\nsend = "x"', "identify[1]", "does one thing"),
    ('run = "chip"', 'rum = "chip"', "identify[1]", "does one thing"),
    ('run = "chip"', 'run = "chip"\nwithin = 3', "identify[1].within", "did you mean within_s?"),
    ('run = "chip"', 'run = "chip"\nwithin_s = 0', "identify[1].within_s", "a number from 0.05 to 3600"),
    ('run = "chip"', 'run = "chip"\nif = "ready"', "identify[1].if", "ready is not set by any step before"),
    ('run = "key {key_type}"', 'run = "key {keytype}"', "generate_key[1].run", "did you mean {key_type}?"),
    ('[[generate_key]]\nrun = "key {key_type}"\n', "", "", "where does the key come from?"),
    ('decode = "hex"\n[[write]]', 'decode = "hexa"\n[[write]]', "read_csr[2].decode", "is one of text, base64, hex, pem"),
    ('decode = "hex"\n[[write]]', "[[write]]", "read_csr", 'it must be octets: capture it with decode = "base64"'),
    ('from = "{said}"', 'from = "{sad}"', "read_csr[2].from", "did you mean {said}?"),
    ('from = "{said}"\n', "", "read_csr[2].from", "is missing"),
    ('from = "{said}"', "from = \"{said}\"\npattern = '[0-9]+$'", "read_csr[2].pattern", "lacks the group (?P<value>...)"),
    ('upload = "certificate"', 'upload = "certifcate"', "write[1].upload", "did you mean {certificate}?"),
    ('upload = "certificate"', 'upload = "ticket"\nchunk = 3', "write[1].chunk", "a whole number from 8 to 4000"),
    ('as = "hex"', 'as = "hex"\nline = "put"', "write[1].line", "lacks {chunk}"),
    ('as = "hex"\n', "", "write[1].as", "is missing"),
    ('as = "hex"', 'as = "text"', "write[1].as", "is base64, hex or pem for octets"),
    ('upload = "certificate"\nas = "hex"', 'upload = "ticket"\nas = "pem"', "write[1].as", "have a PEM form"),
    ('send = "reset"', 'send = "{certificate}"', "reset[1].send", "{certificate} is not known here"),
    ('upload = "certificate"\nas = "hex"', 'send = "{certificate}"', "write[1].send", "octets: send them with an upload step"),
    ('send = "reset"', 'check = "{token}"\nequals = "x"', "reset[1].check", "what shall the technician read"),
    ('send = "reset"', 'check = "{token}"\nsays = "no"', "reset[1].check", "needs one of equals, differs and matches"),
    ('send = "reset"', 'choose = "{token}"\ninto = "x"', "reset[1].cases", "is a table of texts"),
    ('send = "reset"', 'choose = "{token}"\ncases = { "1" = "b" }', "reset[1].into", "which name gets the result?"),
    ('send = "reset"', "expect = ''", "reset[1].expect", "is empty"),
    ('send = "reset"', "expect = '.*.*x'", "reset[1].expect", "what it must not contain"),
    ('send = "reset"', "expect = 'OK'\nanswers = { '(' = 'x' }", "reset[1].answers", "( without its )"),
    ('send = "reset"', 'choose = "{token}"\ncases = 1\ninto = "x"', "reset[1].cases", "is a table, as in"),
    ('send = "reset"', 'send = "reset"\nline_end = 1', "reset[1].line_end", "is true or false"),
    (
        'send = "reset"',
        'choose = "x"\ninto = "lock"\ncases = { x = "shut" }\n[[lock_state]]\nchoose = "x"\n'
        'into = "lock"\ncases = { x = "shut" }\n[[lock]]\nsend = "x"',
        "lock_state[1].cases",
        'give "open" or "locked"',
    ),
    ('[[reset]]\nsend = "reset"\n', "", "", "[[reset]] is missing"),
    ("[[read_back]]", '[[lock]]\nsend = "lock"\n[[read_back]]', "", "[[lock]] and [[lock_state]] belong together"),
]


@pytest.mark.parametrize(("part", "instead", "key", "words"), BROKEN, ids=[f"{n}" for n in range(len(BROKEN))])
def test_a_broken_recipe_is_refused_with_what_to_write(part: str, instead: str, key: str, words: str) -> None:
    assert SMALL.count(part) >= 1
    broken = SMALL.replace(part, instead, 1)
    _, problems = check_recipe(broken)
    found = [problem for problem in problems if problem.key == key and words in problem.why]
    assert found, [str(problem) for problem in problems]
    last = key.rpartition(".")[2].rpartition("[")[0] or key.rpartition(".")[2]
    if "." in key and not words.startswith(("is missing", "by which", "which name", "is a table")):
        assert last in broken.split("\n")[found[0].line - 1], "the line is the key's"
    with pytest.raises(ConfigError, match=re.escape(f"broken.toml:{found[0].line}: ")):
        read_recipe(broken, "broken.toml")


def test_all_that_is_wrong_is_said_at_once() -> None:
    broken = SMALL.replace('name = "small"', "name = 7").replace('into = "chip"\n', "").replace('as = "hex"', 'as = "oct"')
    with pytest.raises(ConfigError) as refusal:
        read_recipe(broken, "r.toml")
    assert len(str(refusal.value).splitlines()) == 4


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a = \n", "no TOML"),
        ("", "is missing"),
        ("# nothing\n" * 10_000, "at most 65536 characters"),
        ("identify = 1\n", "write [[identify]]"),
        ("[[identify]]\n" * 101, "more than 100 steps"),
        ("frame = 1\n", "write [frame]"),
        ("line = { longest = 9 }\n", "a whole number from 32 to 8192"),
    ],
    ids=["syntax", "empty", "large", "number", "steps", "frame", "line"],
)
def test_what_is_no_recipe_at_all_says_why(text: str, words: str) -> None:
    _, problems = check_recipe(text)
    assert any(words in str(problem) for problem in problems)


def test_a_step_that_needs_a_frame_says_so() -> None:
    bare = SMALL[: SMALL.index("[frame]")] + SMALL[SMALL.index("[[identify]]") :].replace(
        'as = "hex"', 'as = "hex"\nframed = true'
    )
    _, problems = check_recipe(bare)
    assert {problem.key for problem in problems if "needs a [frame]" in problem.why} >= {"identify[1].run", "write[1].framed"}


def test_a_syntax_error_has_its_line() -> None:
    _, problems = check_recipe("format = 1\nname = \n")
    assert problems[0].line == 2


def test_the_line_of_a_key_is_found_in_its_step() -> None:
    assert line_of(SMALL, "read_csr[2].decode") == line_with(SMALL, 'from = "{said}"') + 1
    assert line_of(SMALL, "frame.send") == line_with(SMALL, "{command}")
    assert line_of(SMALL, "read_csr[2]") == line_with(SMALL, 'capture = "csr"') - 1
    assert line_of(SMALL, "values.directory") == line_with(SMALL, "directory =")


def test_a_step_without_a_deadline_of_its_own_has_the_recipes() -> None:
    recipe = read_recipe(GOOD, "linux-shell.toml")
    expects = [step for step in recipe.methods["open"] if isinstance(step.action, Expect)]
    assert [step.within_s for step in expects] == [30]
    assert recipe.methods["identify"][0].within_s == 10.0
