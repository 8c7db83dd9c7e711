"""Licences, citations and homepages of the benchmark's data sets, by task.

A licence is what the publishers say, as far as is known to us. Whoever publishes data or models has to
look there.
"""

from __future__ import annotations

from typing import TypedDict


class About(TypedDict):
    """The arguments of `DataSet` that are kept here."""

    licence: str
    citation: str
    homepage: str


_GLUE = """@inproceedings{wang2019glue,
  title     = {{GLUE}: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding},
  author    = {Alex Wang and Amanpreet Singh and Julian Michael and Felix Hill and Omer Levy and
               Samuel R. Bowman},
  booktitle = {International Conference on Learning Representations},
  year      = {2019},
}"""

_SUPER_GLUE = """@inproceedings{wang2019superglue,
  title     = {{SuperGLUE}: A Stickier Benchmark for General-Purpose Language Understanding Systems},
  author    = {Alex Wang and Yada Pruksachatkun and Nikita Nangia and Amanpreet Singh and Julian Michael and
               Felix Hill and Omer Levy and Samuel R. Bowman},
  booktitle = {Advances in Neural Information Processing Systems},
  year      = {2019},
}"""

_RTE = """@inproceedings{dagan2005rte,
  title     = {The {PASCAL} Recognising Textual Entailment Challenge},
  author    = {Ido Dagan and Oren Glickman and Bernardo Magnini},
  booktitle = {Machine Learning Challenges Workshop},
  year      = {2005},
}
@inproceedings{barhaim2006rte,
  title     = {The Second {PASCAL} Recognising Textual Entailment Challenge},
  author    = {Roy Bar-Haim and Ido Dagan and Bill Dolan and Lisa Ferro and Danilo Giampiccolo and
               Bernardo Magnini and Idan Szpektor},
  booktitle = {Second PASCAL Challenges Workshop on Recognising Textual Entailment},
  year      = {2006},
}
@inproceedings{giampiccolo2007rte,
  title     = {The Third {PASCAL} Recognizing Textual Entailment Challenge},
  author    = {Danilo Giampiccolo and Bernardo Magnini and Ido Dagan and Bill Dolan},
  booktitle = {ACL-PASCAL Workshop on Textual Entailment and Paraphrasing},
  year      = {2007},
}
@inproceedings{bentivogli2009rte,
  title     = {The Fifth {PASCAL} Recognizing Textual Entailment Challenge},
  author    = {Luisa Bentivogli and Peter Clark and Ido Dagan and Danilo Giampiccolo},
  booktitle = {Text Analysis Conference},
  year      = {2009},
}"""

_WINOGRAD = """@inproceedings{levesque2012winograd,
  title     = {The {Winograd} Schema Challenge},
  author    = {Hector Levesque and Ernest Davis and Leora Morgenstern},
  booktitle = {Principles of Knowledge Representation and Reasoning},
  year      = {2012},
}"""

_NOT_STATED = "not stated by its publishers, as far as is known to us"


def _about(licence: str, homepage: str, *citations: str) -> About:
    return About(licence=licence, homepage=homepage, citation="\n".join(citations))


ABOUT: dict[str, About] = {
    "glue_mnli": _about(
        "the Open American National Corpus's licence for most of it; its fiction is in the public domain, "
        "CC BY 3.0 or CC BY-SA 3.0",
        "https://cims.nyu.edu/~sbowman/multinli/",
        """@inproceedings{williams2018mnli,
  title     = {A Broad-Coverage Challenge Corpus for Sentence Understanding through Inference},
  author    = {Adina Williams and Nikita Nangia and Samuel Bowman},
  booktitle = {NAACL-HLT},
  year      = {2018},
}""",
        _GLUE,
    ),
    "glue_qqp": _about(
        "Quora's terms of service: for non-commercial use",
        "https://quoradata.quora.com/First-Quora-Dataset-Release-Question-Pairs",
        """@online{iyer2017quora,
  title  = {First {Quora} Dataset Release: Question Pairs},
  author = {Shankar Iyer and Nikhil Dandekar and Kornel Csernai},
  year   = {2017},
}""",
        _GLUE,
    ),
    "glue_qnli": _about(
        "CC BY-SA 4.0 (SQuAD's)",
        "https://rajpurkar.github.io/SQuAD-explorer/",
        """@inproceedings{rajpurkar2016squad,
  title     = {{SQuAD}: 100,000+ Questions for Machine Comprehension of Text},
  author    = {Pranav Rajpurkar and Jian Zhang and Konstantin Lopyrev and Percy Liang},
  booktitle = {EMNLP},
  year      = {2016},
}""",
        _GLUE,
    ),
    "glue_sst2": _about(
        _NOT_STATED,
        "https://nlp.stanford.edu/sentiment/",
        """@inproceedings{socher2013recursive,
  title     = {Recursive Deep Models for Semantic Compositionality Over a Sentiment Treebank},
  author    = {Richard Socher and Alex Perelygin and Jean Wu and Jason Chuang and Christopher D. Manning and
               Andrew Ng and Christopher Potts},
  booktitle = {EMNLP},
  year      = {2013},
}""",
        _GLUE,
    ),
    "glue_stsb": _about(
        "several, one for each source of sentences; listed in the LICENSE.txt of its own download",
        "https://ixa2.si.ehu.eus/stswiki/index.php/STSbenchmark",
        """@inproceedings{cer2017semeval,
  title     = {{SemEval}-2017 Task 1: Semantic Textual Similarity Multilingual and Crosslingual Focused
               Evaluation},
  author    = {Daniel Cer and Mona Diab and Eneko Agirre and I{\\~n}igo Lopez-Gazpio and Lucia Specia},
  booktitle = {SemEval},
  year      = {2017},
}""",
        _GLUE,
    ),
    "glue_mrpc": _about(
        "Microsoft's own, which comes with its download",
        "https://www.microsoft.com/en-us/download/details.aspx?id=52398",
        """@inproceedings{dolan2005mrpc,
  title     = {Automatically Constructing a Corpus of Sentential Paraphrases},
  author    = {William B. Dolan and Chris Brockett},
  booktitle = {Third International Workshop on Paraphrasing},
  year      = {2005},
}""",
        _GLUE,
    ),
    "glue_rte": _about(
        _NOT_STATED, "https://aclweb.org/aclwiki/Recognizing_Textual_Entailment", _RTE, _GLUE
    ),
    "glue_cola": _about(
        "sentences from published linguistics, used as fair use; no licence of the publishers'",
        "https://nyu-mll.github.io/CoLA/",
        """@article{warstadt2019cola,
  title   = {Neural Network Acceptability Judgments},
  author  = {Alex Warstadt and Amanpreet Singh and Samuel R. Bowman},
  journal = {Transactions of the Association for Computational Linguistics},
  year    = {2019},
}""",
        _GLUE,
    ),
    "glue_wnli": _about(
        "CC BY 4.0 (the Winograd schemas')",
        "https://cs.nyu.edu/~davise/papers/WinogradSchemas/WS.html",
        _WINOGRAD,
        _GLUE,
    ),
    "super_glue_multirc": _about(
        _NOT_STATED,
        "https://cogcomp.seas.upenn.edu/multirc/",
        """@inproceedings{khashabi2018multirc,
  title     = {Looking Beyond the Surface: A Challenge Set for Reading Comprehension over Multiple Sentences},
  author    = {Daniel Khashabi and Snigdha Chaturvedi and Michael Roth and Shyam Upadhyay and Dan Roth},
  booktitle = {NAACL-HLT},
  year      = {2018},
}""",
        _SUPER_GLUE,
    ),
    "super_glue_boolq": _about(
        "CC BY-SA 3.0",
        "https://github.com/google-research-datasets/boolean-questions",
        """@inproceedings{clark2019boolq,
  title     = {{BoolQ}: Exploring the Surprising Difficulty of Natural Yes/No Questions},
  author    = {Christopher Clark and Kenton Lee and Ming-Wei Chang and Tom Kwiatkowski and Michael Collins and
               Kristina Toutanova},
  booktitle = {NAACL-HLT},
  year      = {2019},
}""",
        _SUPER_GLUE,
    ),
    "super_glue_wic": _about(
        "CC BY-NC 4.0",
        "https://pilehvar.github.io/wic/",
        """@inproceedings{pilehvar2019wic,
  title     = {{WiC}: the Word-in-Context Dataset for Evaluating Context-Sensitive Meaning Representations},
  author    = {Mohammad Taher Pilehvar and Jose Camacho-Collados},
  booktitle = {NAACL-HLT},
  year      = {2019},
}""",
        _SUPER_GLUE,
    ),
    "super_glue_wsc": _about(
        "CC BY 4.0 (the Winograd schemas')",
        "https://cs.nyu.edu/~davise/papers/WinogradSchemas/WS.html",
        _WINOGRAD,
        _SUPER_GLUE,
    ),
    "super_glue_cb": _about(
        _NOT_STATED,
        "https://github.com/mcdm/CommitmentBank",
        """@inproceedings{demarneffe2019cb,
  title     = {The {CommitmentBank}: Investigating Projection in Naturally Occurring Discourse},
  author    = {Marie-Catherine de Marneffe and Mandy Simons and Judith Tonhauser},
  booktitle = {Sinn und Bedeutung 23},
  year      = {2019},
}""",
        _SUPER_GLUE,
    ),
    "super_glue_copa": _about(
        "BSD 2-Clause",
        "https://people.ict.usc.edu/~gordon/copa.html",
        """@inproceedings{roemmele2011copa,
  title     = {Choice of Plausible Alternatives: An Evaluation of Commonsense Causal Reasoning},
  author    = {Melissa Roemmele and Cosmin Adrian Bejan and Andrew S. Gordon},
  booktitle = {AAAI Spring Symposium on Logical Formalizations of Commonsense Reasoning},
  year      = {2011},
}""",
        _SUPER_GLUE,
    ),
    "super_glue_record": _about(
        _NOT_STATED,
        "https://sheng-z.github.io/ReCoRD-explorer/",
        """@article{zhang2018record,
  title   = {{ReCoRD}: Bridging the Gap between Human and Machine Commonsense Reading Comprehension},
  author  = {Sheng Zhang and Xiaodong Liu and Jingjing Liu and Jianfeng Gao and Kevin Duh and
             Benjamin Van Durme},
  journal = {arXiv preprint arXiv:1810.12885},
  year    = {2018},
}""",
        _SUPER_GLUE,
    ),
    "super_glue_rte": _about(
        _NOT_STATED, "https://aclweb.org/aclwiki/Recognizing_Textual_Entailment", _RTE, _SUPER_GLUE
    ),
}
