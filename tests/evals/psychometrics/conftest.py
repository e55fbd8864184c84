"""Reference values of R's psych, lavaan and lme4, for two kinds of data.

simulated: tests/goldens/psych, made by the make.R there; part of the project.
people: answers of people (bfi, Holzinger-Swineford, SAI) and published tables, beside the checkout where they
are; their licenses keep them out of the project. Tests that read them are skipped without them, and say so.
"""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

SOURCES = ("simulated", "people")
SCALES = {
    "simulated": ("warmth", "order", "drive"),
    "people": ("agree", "conscientious", "extraversion", "neuroticism", "openness"),
}
# what a value or a table is called here, and what beside the checkout
THEIR_VALUES = {
    "efa": "efa_bfi25_minres",
    "omega_together": "omega_all25_nf5",
    "response_style": "bias_bfi25",
    "cfa_questionnaire": "cfa_bfi_5factor",
    "cfa_abilities": "cfa_holzinger3",
    "gtheory_shrout_fleiss": "gtheory_sf_p_x_r",
    "gtheory_nested": "gtheory_brennan_p_x_r_in_t",
    "mtmm": "mtmm_campbell_fiske",
    "norm_compare": "norm_compare_psychobench_example",
}
THEIR_TABLES = {
    "abilities": "holzinger_swineford_1939",
    "retest": "sai_retest_dev",
    "persons_by_raters_in_tasks": "brennan_3_2",
    "persons_by_items_by_occasions": "gtheory_pio_sim_dev",
    "multitrait_multimethod": "mtmm_campbell_fiske_1959",
}


@dataclass(frozen=True)
class Reference:
    """What R found in data of one source, under the names of make.R."""

    source: str
    folder: Path
    values: dict[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def table(self, name: str, **options: Any) -> pd.DataFrame:
        return pd.read_csv(self.folder / f"{self.files.get(name, name)}.csv", **options)

    @property
    def files(self) -> dict[str, str]:
        return {} if self.source == "simulated" else THEIR_TABLES

    @property
    def keys(self) -> dict[str, list[str]]:
        """The items of each scale; "-" stands before reversed ones."""
        return self.values["meta"]["keys"]

    @property
    def bounds(self) -> tuple[int, int]:
        """Lowest and highest answer."""
        low, high = self.values["meta"].get("range", (1, 6))
        return low, high

    @cached_property
    def raw(self) -> pd.DataFrame:
        """Answers as given, [people, items]."""
        if self.source == "simulated":
            return self.table("responses")
        return self.table("bfi", index_col=0).iloc[:, :25]

    def scale(self, name: str) -> pd.DataFrame:
        """Answers to the items of a scale, all turned to one side."""
        turn = sum(self.bounds)
        return pd.DataFrame(
            {
                key.lstrip("-"): turn - self.raw[key[1:]] if key[0] == "-" else self.raw[key]
                for key in self.keys[name]
            }
        )

    @property
    def scales(self) -> dict[str, pd.DataFrame]:
        return {name: self.scale(name) for name in self.keys}


@dataclass(frozen=True)
class Scale:
    """One scale: its answers, complete or not, and what R says of them."""

    name: str
    data: pd.DataFrame
    values: dict[str, Any]
    pairwise: dict[str, Any]

    @property
    def complete(self) -> pd.DataFrame:
        return self.data.dropna()


def _simulated(folder: Path) -> Reference:
    return Reference("simulated", folder, json.loads((folder / "r_values.json").read_text()))


def _people(folder: Path) -> Reference:
    found = json.loads((folder / "golden_dev.json").read_text())
    extras, crossed = found["extras"], found["gtheory_pio_sim_dev"]["result"]
    crossed["df"] = {k.replace("Residuals", "p:i:o"): v for k, v in crossed["df"].items() if v}
    crossed["MS"] = {k: v for k, v in crossed["MS"].items() if k != "Residuals"}
    values = found | {ours: found[theirs] for ours, theirs in THEIR_VALUES.items()}
    values["efa"]["n_factors"] = values["omega_together"]["n_factors"] = 5
    prophecy = extras["spearman_brown_prophecy"]
    prophecy["items_for_90"] = prophecy["k_items_for_0.9_from_alpha_.8133_k5"]
    values |= {
        "forward_reverse": found["forward_reverse_bfi"]["values"],
        "gtheory_crossed": crossed,
        "retest": found["test_retest_sai_dev"]["result"],
        "tost_paired": found["tost_pingouin_paired_sai_dev"]["result"],
        "krippendorff_2011": found["krippendorff_2011"]["computed"],
        "polychoric": extras["polychoric_neuroticism"] | {"scale": "neuroticism"},
        "unreversed": extras["alpha_unreversed_agree"] | {"scale": "agree", "item": "A1"},
        "identity": extras["identity_neuroticism"] | {"scale": "neuroticism"},
        "spearman_brown_prophecy": prophecy
        | {"items_for_90": prophecy["k_items_for_0.9_from_alpha_.8133_k5"]},
        "disattenuation": extras["disattenuation"],
        "correlation": extras["cor_N_E"] | {"scales": ["neuroticism", "extraversion"]},
        "group_difference": extras["gender_diff_N"],
    }
    return Reference("people", folder, values)


@pytest.fixture(scope="session")
def references(request: pytest.FixtureRequest):
    """Reference of a source, read once."""
    read: dict[str, Reference] = {}

    def of(source: str) -> Reference:
        if source not in read:
            if source == "simulated":
                read[source] = _simulated(request.getfixturevalue("goldens") / "psych")
            else:
                read[source] = _people(request.getfixturevalue("shared") / "golden/psych")
        return read[source]

    return of


@pytest.fixture(scope="session")
def simulated(references) -> Reference:
    return references("simulated")


@pytest.fixture(params=SOURCES)
def golden(request: pytest.FixtureRequest, references) -> Reference:
    """Both sources, one after the other."""
    return references(request.param)


@pytest.fixture(params=[(source, name) for source in SOURCES for name in SCALES[source]], ids="-".join)
def scale(request: pytest.FixtureRequest, references) -> Scale:
    """Every scale of both sources."""
    source, name = request.param
    found = references(source)
    return Scale(name, found.scale(name), found["scales_complete"][name], found["scales_pairwise"][name])
