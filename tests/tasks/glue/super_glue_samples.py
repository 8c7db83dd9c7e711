"""A few made-up examples of each data set of SuperGLUE, as it is distributed and as TFDS has it."""

import json


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def sample(folder, train, validation, record):
    """Objects as they are distributed; `record` makes TFDS's records of one."""
    splits = {"train": train, "validation": validation}
    names = {"train": "train", "validation": "val"}
    return {
        "files": {f"{folder}/{names[split]}.jsonl": jsonl(rows) for split, rows in splits.items()},
        "records": {s: [r for row in rows for r in record(row)] for s, rows in splits.items()},
    }


def numbered(names):
    """TFDS's record of an object whose label is a word or a truth value."""

    def record(row):
        label = row["label"]
        return [{**row, "label": names.index(label) if isinstance(label, str) else int(label)}]

    return record


def wsc_records(row):
    label = int(row["label"])
    spans = dict(row["target"])
    if spans["span1_text"] == "The old\nlady":  # as TFDS mends it
        spans["span1_text"] = "the old lady"
    return [{"text": row["text"], "idx": row["idx"], "label": label, **spans}]


def multirc_records(row):
    return [
        {
            "paragraph": row["passage"]["text"], "question": q["question"], "answer": a["text"],
            "label": a["label"], "idx": {"paragraph": row["idx"], "question": q["idx"], "answer": a["idx"]},
        }
        for q in row["passage"]["questions"]
        for a in q["answers"]
    ]  # fmt: skip


def multirc(number, text, *questions):
    """Questions are (question, first index of the answers, (answer, label) ...)."""
    return {
        "idx": number,
        "version": 1.1,
        "passage": {
            "text": text,
            "questions": [
                {
                    "question": question,
                    "idx": 10 * number + n,
                    "answers": [
                        {"text": answer, "label": label, "idx": first + i}
                        for i, (answer, label) in enumerate(answers)
                    ],
                }
                for n, (question, first, *answers) in enumerate(questions)
            ],
        },
    }  # fmt: skip


PASSAGE = 'Ann met Bob in "Rome".\n@highlight\nThe city is old\n@highlight\nBob left'


def spans_of(text, *names):
    return [{"start": text.index(n), "end": text.index(n) + len(n) - 1, "text": n} for n in names]


def record_object(number, queries):
    entities = [*spans_of(PASSAGE, "Rome", "Ann", "Bob"), spans_of(PASSAGE, "Ann")[0]]
    return {
        "source": "Daily mail",
        "idx": number,
        "passage": {
            "text": PASSAGE,
            "entities": [{"start": e["start"], "end": e["end"]} for e in entities],
        },
        "qas": [
            {"query": q, "idx": 5 * number + n, "answers": spans_of(PASSAGE, *answers)}
            for n, (q, answers) in enumerate(queries)
        ],
    }


def record_records(row):
    return [
        {
            "passage": row["passage"]["text"], "query": q["query"], "entities": ["Ann", "Bob", "Rome"],
            "answers": sorted(a["text"] for a in q["answers"]),
            "idx": {"passage": row["idx"], "query": q["idx"]},
        }
        for q in row["qas"]
    ]  # fmt: skip


def wsc(number, text, first, second, label):
    target = {
        "span1_text": first[0],
        "span1_index": first[1],
        "span2_text": second[0],
        "span2_index": second[1],
    }
    return {"text": text, "target": target, "idx": number, "label": label}


def copa(number, premise, choice1, choice2, question, label):
    texts = {"premise": premise, "choice1": choice1, "choice2": choice2, "question": question}
    return {**texts, "label": label, "idx": number}


def wic(number, word, sentence1, sentence2, label):
    places = {"start1": 0, "end1": 1, "start2": 2, "end2": 3}
    texts = {"word": word, "sentence1": sentence1, "sentence2": sentence2}
    return {**texts, **places, "idx": number, "label": label}


NLI = ("entailment", "not_entailment")
CB = ("entailment", "contradiction", "neutral")
SAMPLES = {
    "super_glue_multirc": sample(
        "MultiRC",
        [
            multirc(0, "<b>Sent 1: </b>Ann sings.<br><b>Sent 2: </b>Bob \"drums\".<br>",
                    ("Who <b>sings</b>?", 0, ("Ann", 1), ("Bob", 0)), ("Who drums?", 2, ("Bob<br>", 1))),
        ],
        [multirc(1, "It rained.", ("Did it?", 0, ("Yes", 1), ("No", 0)), ("Was it dry?", 2, ("No", 1)))],
        multirc_records,
    ),
    "super_glue_boolq": sample(
        "BoolQ",
        [{"question": "is it so", "passage": "It -- it is \"so\".", "idx": 0, "label": True}],
        [
            {"question": "do cats bark", "passage": "Cats mew.", "idx": 0, "label": False},
            {"question": "do dogs bark", "passage": "Dogs bark.", "idx": 1, "label": True},
        ],
        numbered(("False", "True")),
    ),
    "super_glue_wic": sample(
        "WiC",
        [wic(0, "place", "Do you want to come over to my place later?", "The place was crowded.", False)],
        [wic(0, "approach", "Approach a task.", "To approach the city.", False),
         wic(1, "hold", "Hold the taxi.", "Hold the horse.", True)],
        numbered(("False", "True")),
    ),
    "super_glue_wsc": sample(
        "WSC",
        [
            wsc(0, "Mark told Pete lies about himself, which he read.", ("Mark", 0),
                ("himself,", 5), False),
            wsc(1, "When she left, the old lady smiled.", ("The old\nlady", 3), ("she", 1), True),
        ],
        [
            wsc(0, "The trophy (it was big) did not fit.", ("The trophy", 0), ("(it", 2), True),
            wsc(1, "Ann thanked Bob since he helped.", ("Ann", 0), ("he", 4), False),
        ],
        wsc_records,
    ),
    "super_glue_cb": sample(
        "CB",
        [{"premise": "A: I think so. B: Uh-huh.", "hypothesis": "it is so", "label": "neutral", "idx": 0}],
        [
            {"premise": "Ann knew it.", "hypothesis": "it was", "label": "entailment", "idx": 0},
            {"premise": "Ann denied it.", "hypothesis": "it was", "label": "contradiction", "idx": 1},
            {"premise": "Ann asked.", "hypothesis": "it was", "label": "neutral", "idx": 2},
        ],
        numbered(CB),
    ),
    "super_glue_copa": sample(
        "COPA",
        [copa(0, "It broke.", "It fell.", "It sang.", "cause", 0)],
        [
            copa(0, "I ate.", "I slept.", "I was full.", "effect", 1),
            copa(1, "I ran.", "I was late.", "I sat.", "cause", 0),
        ],
        numbered(("choice1", "choice2")),
    ),
    "super_glue_record": sample(
        "ReCoRD",
        [
            record_object(
                0, [("@placeholder was there.", ["Bob", "Ann"]), ("In @placeholder.", ["Rome"])]
            ),
        ],
        [
            record_object(1, [("@placeholder left.", ["Bob"])]),
            record_object(2, [("@placeholder met.", ["Ann", "Bob"])]),
        ],
        record_records,
    ),
    "super_glue_rte": sample(
        "super_glue/RTE",
        [{"premise": "Dogs bark.", "hypothesis": "Animals bark.", "label": "entailment", "idx": 0}],
        [
            {"premise": "No one came", "hypothesis": "All came", "label": "not_entailment", "idx": 0},
            {"premise": "Ann won", "hypothesis": "Some won", "label": "entailment", "idx": 1},
        ],
        numbered(NLI),
    ),
}  # fmt: skip
