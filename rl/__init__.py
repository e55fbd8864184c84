"""Reinforcement learning for code: problems with tests, a sandbox that runs programs, and their feedback.

The names that other programs import; everything else is internal and may move.

>>> import rl
>>> double = rl.Problem("double", "Double n.", fn_name="f", inputs=[[3]], outputs=[6])
>>> with rl.Pool(workers=1, limits=rl.Limits(time_s=5)) as pool:
...     good = pool.grade(double, "def f(n): return 2 * n")
...     bad = pool.grade(double, "def f(n): return n")
>>> good.verdict, good.reward
('pass', 1.0)
>>> bad.verdict, bad.message
('fail', 'got 3, expected 6')
>>> rl.extract(double, "Here it is:\\n```python\\ndef f(n): return 2 * n\\n```", "chat").program
'def f(n): return 2 * n\\n'
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rl.feedback.language import CompilerFeedback, Executed, Limits, TestResult
    from rl.feedback.pool import Pool, reference_time_limits
    from rl.feedback.problems import Problem, fingerprint, split_problems
    from rl.feedback.prompts import CodePrompt, Extracted, code_prompt, extract
    from rl.feedback.readers import load_problems
    from rl.feedback.rewards import verdict_reward
    from rl.sandbox.worker import SandboxError

__all__ = [
    "CodePrompt",
    "CompilerFeedback",
    "Executed",
    "Extracted",
    "Limits",
    "Pool",
    "Problem",
    "SandboxError",
    "TestResult",
    "code_prompt",
    "extract",
    "fingerprint",
    "load_problems",
    "reference_time_limits",
    "split_problems",
    "verdict_reward",
]
_HOMES = {
    "CodePrompt": "feedback.prompts",
    "CompilerFeedback": "feedback.language",
    "Executed": "feedback.language",
    "Extracted": "feedback.prompts",
    "Limits": "feedback.language",
    "Pool": "feedback.pool",
    "Problem": "feedback.problems",
    "SandboxError": "sandbox.worker",
    "TestResult": "feedback.language",
    "code_prompt": "feedback.prompts",
    "extract": "feedback.prompts",
    "fingerprint": "feedback.problems",
    "load_problems": "feedback.readers",
    "reference_time_limits": "feedback.pool",
    "split_problems": "feedback.problems",
    "verdict_reward": "feedback.rewards",
}


def __getattr__(name: str) -> object:
    """Imports a name when it is asked for: the sandbox's server imports this package and must stay small."""
    if name not in _HOMES:
        raise AttributeError(f"module 'rl' has no attribute {name!r}")
    return getattr(importlib.import_module(f"rl.{_HOMES[name]}"), name)
