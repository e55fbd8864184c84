"""One file for each command of `python -m training`, and the table of them.

A command is a module whose docstring begins with its text for --help, and which has one of

    main(config: SomeConfig)     a command that reads one YAML file and takes key=value
    command(...)                 a command with arguments and options of its own, annotated for typer

`main` may be imported from another room. Its module is imported when the command runs: --help reads the
source. A module with `command` is imported at startup, so it imports what it needs inside that function.
"""

COMMANDS = {
    "demo": "training.commands.demo",
    "pretrain": "training.commands.pretrain",
    "sft": "training.commands.sft",
    "ppo": "training.commands.ppo",
    "eval": "training.commands.evaluate",
    "export": "training.commands.export",
    "generate": "training.commands.generate",
    "serve": "training.commands.serve",
    "plot": "training.commands.plot",
    "plan": "training.commands.plan",
    "reproduce": "training.commands.reproduce",
}
