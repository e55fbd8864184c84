"""The studies of `python -m training reproduce`: each puts the claims of one paper to the test.

A study is a module with its config's dataclass and `make(config, folder)`, which returns a
`training.studies.cells.PaperStudy`; it is listed in STUDIES, and its config is reproduce/NAME.
"""

STUDIES = {
    "loramoe": "training.studies.loramoe.study",
    "stepcoder": "training.studies.stepcoder.study",
    "realbehavior": "training.studies.realbehavior.study",
}
