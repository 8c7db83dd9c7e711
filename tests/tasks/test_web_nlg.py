import json

import pytest

from mpt_jax.data.splits import examples_for
from mpt_jax.errors import UserError

CITY = 'Aarhus_Airport | cityServed | "Aarhus, Denmark"'
RUNWAY = "Aarhus_Airport | runwayLength | 2702.0"
BORN = "Aaron_Bertram | birthDate | 1980"
TEXTS = {
    CITY: [
        "The Aarhus is the airport of Aarhus, Denmark.",
        "Aarhus Airport serves Aarhus & Denmark.",
    ],
    RUNWAY: ["Aarhus Airport's runway length is 2702.0."],
    BORN: ["Aaron Bertram was born in 1980."],
}


def entry(number, category, triples, texts, attributes='lang=""'):
    escaped = [text.replace("&", "&amp;") for text in texts]
    return "\n".join(
        [
            f'    <entry category="{category}" eid="Id{number}" size="{len(triples)}">',
            "      <originaltripleset>",
            *(f"        <otriple>{triple}@en</otriple>" for triple in triples),
            "      </originaltripleset>",
            "      <modifiedtripleset>",
            *(f"        <mtriple>{triple}</mtriple>" for triple in triples),
            "      </modifiedtripleset>",
            *(f'      <lex comment="good" lid="Id1" {attributes}>{t}</lex>' for t in escaped),
            "    </entry>",
        ]
    )


def document(*entries):
    body = "\n".join(entries)
    return f'<?xml version="1.0" ?>\n<benchmark>\n  <entries>\n{body}\n  </entries>\n</benchmark>\n'


AIRPORT = entry(1, "Airport", [CITY], TEXTS[CITY])
ONE = document(AIRPORT, entry(2, "Airport", [RUNWAY], TEXTS[RUNWAY]))
TWO = document(entry(1, "Airport", [CITY, RUNWAY], ["Both of Aarhus Airport."]))
TEST = document(
    AIRPORT,
    entry(2, "Artist", [BORN], TEXTS[BORN]),
    entry(3, "Airport", [CITY], [*TEXTS[CITY][:1], "A third text."]),
    entry(4, "Airport", [RUNWAY], []),
)


@pytest.fixture
def web_nlg(write):
    folder = "webnlg_challenge_2017"
    for part in ("train", "dev"):
        write(f"{folder}/{part}/2triples/2triples_Airport_{part}_challenge.xml", TWO)
        write(f"{folder}/{part}/1triples/1triple_allSolutions_Airport_{part}_challenge.xml", ONE)
    write(f"{folder}/test/testdata_with_lex.xml", TEST)
    write(f"{folder}/test/testdata_no_lex.xml", TEST)


@pytest.mark.parametrize(
    ("text_format", "city", "runway", "both"),
    [
        (
            "attempt",
            f"web_nlg triples: {CITY}",
            f"web_nlg triples: {RUNWAY}",
            f"web_nlg triples: {CITY} && {RUNWAY}",
        ),
        (
            "t5",
            'web_nlg subject: Aarhus Airport property: cityServed object: "Aarhus, Denmark"',
            "web_nlg subject: Aarhus Airport property: runwayLength object: 2702.0",
            'web_nlg subject: Aarhus Airport property: cityServed object: "Aarhus, Denmark" '
            "subject: Aarhus Airport property: runwayLength object: 2702.0",
        ),
    ],
)
def test_texts(web_nlg, register, text_format, city, runway, both):
    tasks = register("web_nlg", text_format=text_format)
    assert tasks.texts("web_nlg", "train") == [
        (city, TEXTS[CITY][0]),
        (city, TEXTS[CITY][1]),
        (runway, TEXTS[RUNWAY][0]),
        (both, "Both of Aarhus Airport."),
    ]
    assert tasks.texts("web_nlg", "validation") == [
        (city, TEXTS[CITY][0]),
        (runway, TEXTS[RUNWAY][0]),
        (both, "Both of Aarhus Airport."),
    ]


def test_an_input_is_scored_once_against_all_its_references(web_nlg, register):
    tasks = register("web_nlg")
    third = [*TEXTS[CITY], TEXTS[CITY][0], "A third text."]
    assert tasks.extras("web_nlg", "test", "answers") == [third, TEXTS[BORN]]
    best = tasks.score("web_nlg", "test", ["Aarhus Airport serves Aarhus & Denmark.", *TEXTS[BORN]])
    assert best["bleu"] == pytest.approx(1)
    assert best["rougeL"] == pytest.approx(1)


@pytest.mark.parametrize(
    ("rule", "target"), [("web_nlg_seen", TEXTS[CITY][0]), ("web_nlg_unseen", TEXTS[BORN][0])]
)
def test_seen_and_unseen_categories(web_nlg, register, rule, target):
    tasks = register("web_nlg")
    test = examples_for(rule, "test", lambda split: tasks.store("web_nlg", split))
    assert [example.targets_text for example in test.read(range(len(test)))] == [target]


def as_json(*entries):
    return json.dumps(
        {
            "entries": [
                {
                    str(number): {
                        "category": category,
                        "lexicalisations": [
                            {"comment": "good", "lang": "", "lex": text, "xml_id": "Id1"}
                            for text in texts
                        ],
                        "modifiedtripleset": [
                            dict(
                                zip(("subject", "property", "object"), t.split(" | "), strict=True)
                            )
                            for t in triples
                        ],
                        "originaltriplesets": {"originaltripleset": []},
                        "shape": "",
                        "size": str(len(triples)),
                        "xml_id": f"Id{number}",
                    }
                }
                for number, (category, triples, texts) in enumerate(entries, start=1)
            ]
        },
        indent=1,
    )


def test_json_is_the_same(write, register):
    rows = [
        ("Airport", [CITY], TEXTS[CITY]),
        ("Artist", [BORN], TEXTS[BORN]),
        ("City", [RUNWAY], []),
    ]
    for name in ("train", "dev", "test"):
        write(f"web_nlg/{name}.json", as_json(*rows))
    tasks = register("web_nlg")
    assert tasks.texts("web_nlg", "train") == [
        (f"web_nlg triples: {CITY}", TEXTS[CITY][0]),
        (f"web_nlg triples: {CITY}", TEXTS[CITY][1]),
        (f"web_nlg triples: {BORN}", TEXTS[BORN][0]),
    ]
    assert tasks.extras("web_nlg", "test_seen", "answers") == [TEXTS[CITY]]


def test_other_languages_and_what_stands_inside_a_text_are_left_out(write, register):
    russian = entry(1, "Airport", [RUNWAY], ["Взлётная полоса."], 'lang="ru"')
    template = "<template>AGENT-1</template>"
    write(
        "webnlg/test/testdata_with_lex.xml",
        document(AIRPORT, russian, entry(2, "City", [BORN], [f"Born{template} in 1980."])),
    )
    tasks = register("web_nlg")
    assert tasks.extras("web_nlg", "test", "answers") == [TEXTS[CITY], ["Born in 1980."]]


BOMB = '<!DOCTYPE b [<!ENTITY a "aa"><!ENTITY b "&a;&a;">]>\n<benchmark><entries></entries></benchmark>'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (TEST[:-20], r"testdata_with_lex.xml, line \d+: is not XML"),
        ("no XML", "line 1: is not XML"),
        ("", "line 1: is not XML"),
        ("<html>\n</html>", "line 1: starts with <html>"),
        (
            TEST.replace("1980</mtriple>", "1980 | x</mtriple>"),
            "line 14: the triple .*1980 . x",
        ),
        (TEST.replace("mtriple", "xtriple"), "line 4: has an entry .'Id1'. without <mtriple>"),
        (document("<lex>Alone</lex>"), "line 4: has a <lex> outside of any <entry>"),
        (BOMB, "line 1: declares an entity .'a'."),
        (TEST.replace("Airport", "Airport &b;"), "line 4: is not XML: undefined entity"),
        (document(), "no examples in split 'test'"),
    ],
    ids=range(10),
)
def test_damaged_and_hostile_xml_is_named_with_the_line(write, register, content, message):
    write("webnlg/test/testdata_with_lex.xml", content)
    with pytest.raises(UserError, match=message):
        register("web_nlg").store("web_nlg", "test")


GOOD = as_json(("Airport", [CITY], TEXTS[CITY]), ("Artist", [BORN], TEXTS[BORN]))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD[:-3], r"test.json, line \d+: not JSON"),
        ("[]", "there is no list 'entries'"),
        (GOOD.replace('"xml_id": "Id2"', '"id": "Id2"'), "entry 2: KeyError: 'xml_id'"),
        (GOOD.replace(json.dumps(TEXTS[BORN][0]), "5"), "entry 2: AttributeError"),
        ('{"entries": [{"1": {}, "2": {}}]}', "entry 1: ValueError: too many values"),
        ('{"entries": [["1"]]}', "entry 1: AttributeError"),
    ],
    ids=range(6),
)
def test_damaged_json_is_named_with_the_entry(write, register, content, message):
    write("webnlg/test.json", content)
    with pytest.raises(UserError, match=message):
        register("web_nlg").store("web_nlg", "test")


def test_a_train_file_that_is_added_gives_another_store(web_nlg, register, write, own_registries):
    before = register("web_nlg").store("web_nlg", "train").manifest
    write("webnlg_challenge_2017/train/3triples/new.xml", ONE)
    own_registries.TaskRegistry.reset()
    after = register("web_nlg").store("web_nlg", "train").manifest
    assert (before.count, after.count) == (4, 7)
    assert before.source != after.source
