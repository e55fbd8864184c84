"""config.json files that are damaged or hostile: a model or one line, in bounded time and memory."""

import json
import random

from jaxmoe.pretrained import read_model_config
from tests.fuzz import INPUTS, SEED, assert_read_or_refused, changed_json, scratch
from tests.tiny_checkpoints import SIZES

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
FILES = [
    {"model_type": "llama", **SIZES, "rope_theta": 1e4, "rope_scaling": LLAMA3, "eos_token_id": [2, 3]},
    {"model_type": "mistral", **SIZES, "sliding_window": 8, "dtype": "float32"},
    {
        "model_type": "qwen2",
        **SIZES,
        "use_sliding_window": True,
        "layer_types": ["full_attention", "sliding_attention"],
    },
    {"model_type": "qwen3", **SIZES, "head_dim": 4, "rope_parameters": {"rope_type": "yarn", "factor": 2.0}},
    {"model_type": "loramoe_llama", **SIZES, "loramoe": {"experts": {}, "balance": {}}},
]


def test_config_files(tmp_path):
    rng = random.Random(f"{SEED} 3")
    path = tmp_path / "config.json"
    good = 0
    for number in range(INPUTS):
        file = FILES[number % len(FILES)]
        if rng.random() < 0.8:
            path.write_text(json.dumps(changed_json(file, rng)))
        else:
            path.write_bytes(scratch(json.dumps(file).encode(), rng))
        good += assert_read_or_refused(lambda: read_model_config(tmp_path))
    assert INPUTS // 10 < good < 0.95 * INPUTS
