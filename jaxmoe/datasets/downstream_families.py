"""The downstream tasks: seven generators of short, exactly scorable instruction samples.

Every generator draws a content from a random source and words it twice: as an instruction with a short
answer, for fine-tuning, and as plain text in other words, for pretraining, so that a small base has the
skill that adapters are to route to. `key` names the content without its wording: splits go by it, so no
content crosses from one split to another in whatever words.
"""

import random
from collections.abc import Callable
from typing import NamedTuple


def words(text: str) -> list[str]:
    """The blank-separated words of a table that is written as one text."""
    return text.split()


WOMEN = words("Anna Maria Clara Julia Laura Emma Sara Nina Lucy Helen Rosa Ella Ida Kate Ruth Vera")
MEN = words("Paul Peter Tom Max Leo Carl Hugo Oscar Adam Felix Simon Jack Ben Noah Otto Ivan")
NAMES = WOMEN + MEN
COLORS = words("red blue green white black yellow brown grey")
THINGS = words(
    "lamp chair table kite drum clock mirror basket bottle carpet ladder hammer guitar violin bicycle "
    "camera pencil candle blanket umbrella"
)
PLACES = words("garden market kitchen library station museum harbour forest village castle school theatre")
FOODS = words("rice soup bread cheese honey fish salad cake apples beans noodles pancakes")
JOBS = words("baker doctor farmer teacher painter sailor nurse tailor singer miller")
DAYS = words("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")


class Task(NamedTuple):
    """One sample: its instruction form and the same content as plain text."""

    key: str
    instruction: str
    input: str
    output: str
    text: str


def article(noun: str) -> str:
    """The noun with its indefinite article, chosen by its first letter."""
    return f"an {noun}" if noun[0] in "aeiou" else f"a {noun}"


def reading(rng: random.Random) -> Task:
    """Reading comprehension: find the sentence that answers, copy its object."""
    lives = "{n} lives near the {o}"
    kinds = {  # what may fill {o}; sentence, question, the sentence restated, answer
        "has": (THINGS, "{n} has a {c} {o}.", "What does {n} have?", "the {c} {o} belongs to {n}", "{c} {o}"),
        "lives": (PLACES, f"{lives}.", "Near what does {n} live?", lives, "the {o}"),
        "likes": (FOODS, "{n} likes {o}.", "What does {n} like?", "{n} likes {o}", "{o}"),
        "comes": (DAYS, "{n} comes on {o}.", "When does {n} come?", "{n} comes on {o}", "on {o}"),
    }
    drawn = []
    for name, kind in zip(rng.sample(NAMES, 3), rng.sample(sorted(kinds), 3), strict=True):
        objects, *wordings = kinds[kind]
        slots = {"n": name, "c": rng.choice(COLORS), "o": rng.choice(objects)}
        drawn.append([wording.format(**slots) for wording in wordings])
    passage = " ".join(sentence for sentence, *_ in drawn)
    _, question, restated, answer = rng.choice(drawn)
    instruction = rng.choice(
        ["Read the text and answer the question.", "Answer from the text.", "What does the text say?"]
    )
    text = f"{passage} {rng.choice(['We heard that', 'So we know that', 'It follows that'])} {restated}."
    return Task(f"{passage}|{question}", instruction, f"{passage}\n{question}", answer, text)


_KINDS = {
    "animal": ("dog", "cat", "horse", "goat"),
    "fruit": ("apple", "pear", "banana", "plum"),
    "flower": ("rose", "tulip", "lily", "daisy"),
    "tool": ("hammer", "saw", "spade", "rake"),
    "vehicle": ("car", "bus", "truck", "van"),
    "instrument": ("guitar", "violin", "drum", "flute"),
}


def inference(rng: random.Random) -> Task:
    """Natural language inference: does the second sentence follow (yes), not follow (no), or neither?"""
    name, place = rng.choice(NAMES), rng.choice(PLACES)
    kind = rng.choice(sorted(_KINDS))
    thing = rng.choice(_KINDS[kind])
    verb = rng.choice(["saw", "found", "drew", "sold"])
    premise = f"{name} {verb} {article(thing)} in the {place}."
    other_kind = rng.choice([k for k in sorted(_KINDS) if k != kind])
    other_place = rng.choice([p for p in PLACES if p != place])
    label = rng.choice(["yes", "no", "maybe"])
    hypothesis = {
        "yes": [f"{name} {verb} {article(kind)}.", f"The {thing} was in the {place}, not the {other_place}."],
        "no": [f"{name} {verb} nothing.", f"The {thing} was in the {other_place}, not the {place}."],
        "maybe": [f"{name} {verb} {article(other_kind)}.", f"The {thing} was {rng.choice(COLORS)}."],
    }[label][rng.randrange(2)]
    instruction = rng.choice(
        [
            "Does the second sentence follow from the first? Say yes, no or maybe.",
            "If the first sentence holds, does the second? Answer yes, no or maybe.",
        ]
    )
    verdict = {"yes": "That is certain", "no": "That is false", "maybe": "That is unknown"}[label]
    text = f"{premise} Is it so that: {hypothesis} {verdict}: {label}."
    return Task(f"{premise}|{hypothesis}", instruction, f"{premise}\n{hypothesis}", label, text)


_BECAUSE = (  # what was done, the reason, who is meant by the pronoun
    ("thanked", "had helped", 1),
    ("asked", "knew the answer", 1),
    ("paid", "had done the work", 1),
    ("punished", "had told a lie", 1),
    ("praised", "had worked well", 1),
    ("comforted", "was sad", 1),
    ("called", "needed advice", 0),
    ("begged", "wanted money", 0),
    ("envied", "had so little", 0),
    ("feared", "was timid", 0),
    ("bored", "talked too long", 0),
    ("annoyed", "made much noise", 0),
)


def coreference(rng: random.Random) -> Task:
    """Whom does the pronoun mean? Only the verb and the reason tell."""
    women = rng.random() < 0.5
    people = rng.sample(WOMEN if women else MEN, 2)
    pronoun = "she" if women else "he"
    verb, reason, who = rng.choice(_BECAUSE)
    sentence = f"{people[0]} {verb} {people[1]} because {pronoun} {reason}."
    instruction = rng.choice([f'Who is meant by "{pronoun}"?', f'Whom does "{pronoun}" stand for?'])
    text = f"{sentence} The one who {reason} was {people[who]}."
    return Task(sentence, instruction, sentence, people[who], text)


def summary(rng: random.Random) -> Task:
    """Summarisation: who did what, without the circumstances."""
    name, job, verb = rng.choice(NAMES), rng.choice(JOBS), rng.choice(["bought", "sold", "lost", "painted"])
    color, thing, place = rng.choice(COLORS), rng.choice(THINGS), rng.choice(PLACES)
    weather = rng.choice(["It rained.", "It was warm.", "The wind was cold.", "The sun was out."])
    ending = rng.choice(["Then came the night.", "People talked of it.", "Nobody was surprised."])
    event = f"On {rng.choice(DAYS)} the {job} {name} {verb} a {color} {thing} near the {place}."
    story = " ".join([weather, event, ending] if rng.random() < 0.5 else [event, weather, ending])
    answer = f"{name} {verb} {article(thing)}"
    instruction = rng.choice(["Summarise the story.", "Say in a few words what happened."])
    opening = rng.choice(["In brief", "The point", "The news"])
    return Task(story, instruction, story, answer, f"{story} {opening}: {answer}.")


_ACTORS = {  # English: Spanish, feminine
    "cat": ("gato", False),
    "dog": ("perro", False),
    "boy": ("chico", False),
    "girl": ("chica", True),
    "teacher": ("maestra", True),
    "doctor": ("doctor", False),
    "cow": ("vaca", True),
    "king": ("rey", False),
    "queen": ("reina", True),
    "friend": ("amigo", False),
    "horse": ("caballo", False),
    "aunt": ("tía", True),
}
_OBJECTS = {
    "house": ("casa", True),
    "book": ("libro", False),
    "table": ("mesa", True),
    "door": ("puerta", True),
    "window": ("ventana", True),
    "bread": ("pan", False),
    "apple": ("manzana", True),
    "car": ("coche", False),
    "flower": ("flor", True),
    "letter": ("carta", True),
    "hat": ("sombrero", False),
    "shoe": ("zapato", False),
}
_ADJECTIVES = {  # English: masculine, feminine
    "white": ("blanco", "blanca"),
    "black": ("negro", "negra"),
    "red": ("rojo", "roja"),
    "old": ("viejo", "vieja"),
    "small": ("pequeño", "pequeña"),
    "new": ("nuevo", "nueva"),
    "beautiful": ("bonito", "bonita"),
}
_VERBS = {
    "sees": "ve",
    "buys": "compra",
    "sells": "vende",
    "has": "tiene",
    "takes": "toma",
    "paints": "pinta",
}


def translation(rng: random.Random) -> Task:
    """English to Spanish in a small grammar: gender agrees, the adjective follows its noun."""

    def phrase(nouns: dict[str, tuple[str, bool]]) -> tuple[str, str]:
        english = rng.choice(sorted(nouns))
        spanish, feminine = nouns[english]
        the = "la" if feminine else "el"
        if rng.random() < 0.5:
            return f"the {english}", f"{the} {spanish}"
        adjective = rng.choice(sorted(_ADJECTIVES))
        return f"the {adjective} {english}", f"{the} {spanish} {_ADJECTIVES[adjective][feminine]}"

    (actor, actor_es), (thing, thing_es) = phrase(_ACTORS), phrase(_OBJECTS)
    verb = rng.choice(sorted(_VERBS))
    english, spanish = f"{actor} {verb} {thing}", f"{actor_es} {_VERBS[verb]} {thing_es}"
    instruction = rng.choice(["Translate into Spanish.", "Put this into Spanish."])
    parts = ((actor, actor_es), (thing, thing_es), (verb, _VERBS[verb]), (english, spanish))
    source, target = parts[rng.randrange(4)]
    return Task(english, instruction, english, spanish, f'"{source}" is in Spanish "{target}".')


_ASPECTS = words("food room service music view staff film story price garden")
_GOOD = words("good lovely wonderful fine great excellent charming perfect")
_BAD = words("bad awful terrible poor dreadful horrible boring disappointing")


def sentiment(rng: random.Random) -> Task:
    """Sentiment of a short review; a negated word counts for its opposite."""
    positive = rng.random() < 0.5
    words = []
    for aspect in rng.sample(_ASPECTS, 2):
        negated = rng.random() < 0.25
        adjective = rng.choice(_GOOD if positive != negated else _BAD)
        words.append(f"the {aspect} was {'not ' if negated else ''}{adjective}")
    review = f"{words[0]} and {words[1]}.".capitalize()
    instruction = rng.choice(["Is this review positive or negative?", "Positive or negative?"])
    text = f"{review} The guest went home {'happy' if positive else 'angry'}."
    return Task(review, instruction, review, "positive" if positive else "negative", text)


_TOPICS = {
    "sports": words("goal match team race coach ball player champion stadium medal"),
    "music": words("song choir singer melody concert piano rhythm opera band tune"),
    "food": words("meal recipe cook spice flavour dish oven dessert dinner sauce"),
    "weather": words("storm rain cloud wind snow thunder frost sunshine fog hail"),
    "money": words("bank loan price tax debt profit coin market budget salary"),
}


def topic(rng: random.Random) -> Task:
    """Topic classification by the words that occur."""
    label = rng.choice(sorted(_TOPICS))
    first, second, third = rng.sample(_TOPICS[label], 3)
    speaker, listener = rng.sample(NAMES, 2)
    sentence = f"{speaker} told {listener} about the {first}, the {second} and the {third}."
    instruction = rng.choice(
        [
            "Name the topic: sports, music, food, weather or money.",
            "Is this about sports, music, food, weather or money?",
        ]
    )
    return Task(sentence, instruction, sentence, label, f"{sentence} They like to talk of {label}.")


FAMILIES: dict[str, Callable[[random.Random], Task]] = {
    "reading_comprehension": reading,
    "natural_language_inference": inference,
    "coreference": coreference,
    "summarisation": summary,
    "translation": translation,
    "sentiment": sentiment,
    "topic": topic,
}
