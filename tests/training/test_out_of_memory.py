"""What is said when a device's memory does not suffice, or no sandbox can be used: one line."""

import dataclasses
import re
from importlib import import_module

import pytest

from rl.sandbox.worker import SandboxError, ToolsError
from training.__main__ import CONFIGS, OTHER_REMEDY, REMEDIES, guarded


def has(schema: type, key: str) -> bool:
    for name in key.split("."):
        fields = {field.name: field.type for field in dataclasses.fields(schema)}
        if name not in fields:
            return False
        schema = fields[name]
    return True


@pytest.mark.parametrize("command", REMEDIES)
def test_the_remedy_names_keys_of_the_command(command: str):
    module, schema = CONFIGS[command]
    keys = re.findall(r"[a-z_]+\.[a-z_]+|base_dtype", REMEDIES[command])
    assert len(keys) > 3
    assert [key for key in keys if not has(getattr(import_module(module), schema), key)] == []


@pytest.mark.parametrize("command", ["ppo", "eval"])
def test_a_lack_of_memory_ends_in_one_line(command: str, capsys):
    def run():
        raise RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 1 bytes.\nmore")

    with pytest.raises(SystemExit):
        guarded(run, False, command)
    [line] = capsys.readouterr().err.strip().splitlines()
    assert REMEDIES.get(command, OTHER_REMEDY) in line


@pytest.mark.parametrize("kind", [SandboxError, ToolsError])
def test_a_sandbox_that_cannot_be_used_ends_in_one_line(kind: type[Exception], capsys):
    def run():
        raise kind("sandbox.hosts=ray needs Ray:\npip install 'jaxmoe[ray]'")

    with pytest.raises(SystemExit) as end:
        guarded(run, False, "ppo")
    assert end.value.code == 1
    assert capsys.readouterr().err == "stopped: sandbox.hosts=ray needs Ray: pip install 'jaxmoe[ray]'\n"
    with pytest.raises(kind):
        guarded(run, True, "ppo")
