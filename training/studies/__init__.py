"""The studies of `python -m training reproduce`: each puts the claims of one paper to the test.

A study is a module with the dataclass of its config and `make(config, folder)`, which gives a
`training.studies.cells.PaperStudy`; it is named in STUDIES, and its config is reproduce/NAME.
"""

STUDIES = {
    "loramoe": "training.studies.loramoe.study",
    "stepcoder": "training.studies.stepcoder.study",
    "realbehavior": "training.studies.realbehavior.study",
}
