"""The studies of `python -m training reproduce`: each puts the claims of one paper to the test.

A study is a module with the dataclass of its config and `make(config, folder)`, which gives a
`training.studies.cells.PaperStudy`; it is named in training.commands.reproduce.STUDIES and, for --help, in
training.__main__.STUDIES, and has its file in configs/reproduce.
"""
