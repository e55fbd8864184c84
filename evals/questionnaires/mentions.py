"""Where a text names the options of a question, by their labels or by their words.

A letter in prose may be a label or an article, a number a label or a count of something: the words next to it
decide. Not covered: whether the option named is meant (reading).
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

from evals.questionnaires.wording import Choice

_DEGREES = (
    "very|(?<![,;:.] )so|too|quite|pretty|somewhat|mostly|(?<!would )(?<!'d )rather|fairly|extremely"
    "|slightly|totally|completely|fully|almost"
    "|nearly|partly|partially|mildly|kind of|sort of|more|less|most|least|strongly|moderately|generally"
    "|largely"
    "|highly|absolutely|entirely|a bit|a little|hardly|barely|un|not"
)
_DEGREE_BEFORE = re.compile(rf"\b(?:{_DEGREES})[\s-]+$", re.IGNORECASE)
_DEGREE_AFTER = re.compile(
    r"\s*,?\s*(?:but )?(?:only )?(?:somewhat|a little|a bit|slightly|partly|partially|mostly|to (?:some"
    r"|a certain) (?:extent|degree)"
    r"|in part|completely|totally|strongly|moderately|ish\b)",
    re.IGNORECASE,
)
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
# what may announce a label
_CUE = re.compile(
    r"(?:\b(?:answer|option|choice|letter|mark|code|number|no\.|response|(?:rating|score)(?: of)?|rate"
    r"|value|level|go|then|choose|chose"
    r"|pick|picked|select|selected|with|for|say|call it|it's|its|is|be|give|at|as|a|an|than|not|but"
    r"|between|and|or"
    r"|either|neither|nor|to|from|so|circle|tick|therefore|hence|thus|around|about|just|only|solid"
    r"|definitely|probably|maybe"
    r"|perhaps|possibly|clearly|never|mean|that|was|(?:rate|give|make|call|score|put) (?:it|this|that"
    r"|me|myself)|wähle|choisis|elijo|scelgo|antwort|réponse|respuesta|ответ)"
    r"|[:=→()\[\],;.!?—–>|~-]|\.\.\.|[一-鿿぀-ヿ])\s*[(\[]?\s*$",
    re.IGNORECASE,
)
_NAMES_LABEL = re.compile(
    r"\b(?:answer|option|choice|letter|mark|code|number|response|rating|score|pick|choose|select)"
    r"(?: is| would be|\s*[:=])?\s*[(\[]?\s*$",
    re.IGNORECASE,
)
_AFTER_LABEL = re.compile(
    r"\s*$|\s*[^\w\s'#+%&/.,-]|\s*\n|\s*[.,](?!\w)|\s*-(?!\w)|\s+-\s|/(?!\w\w)"
    r"|\s+(?:because|since|as|for|but|or|and|is|it|i|i'm|i'd|though|although|this|that|to|out|on|fits"
    r"|describes"
    r"|seems|sounds|feels|would|matches|suits|works|here|today|best|then|please|if|nor|if|applies"
    r"|rather|instead"
    r"|given|considering|due|again|too|also|there|with|in|doesn't|does|isn't|wouldn't|overstates|understates|was|des|car|weil"
    r"|parce|porque"
    r"|definitely|probably|maybe|really|most|at|than|[a-z](?!'))\b",
    re.IGNORECASE,
)
# what may announce or grade an option comes this close before it; the search goes back no further
_NEAR = 80
# signs alone, or a word of a range or a choice, between two numbers: "2 ~ 3", "2 or maybe 3"
_LISTED = re.compile(
    r"(?:\W|\b(?:or|and|to|through|then|maybe|perhaps|rather|almost|vs|versus)\b)*", re.IGNORECASE
)
_COUNTED = rf"(?:\d+|{'|'.join(_NUMBERS)}|hundred|thousand|million)\b"
_RANGE = re.compile(
    rf"\s*(?:to|or|and|vs\.?|versus|\.{{2,}}|[-–—−/~|&^±])\s*(?:an? )?{_COUNTED}", re.IGNORECASE
)
# what makes it a different number: "2^2", "3 and a bit", "1 in 5"
_CALCULATED = re.compile(
    rf"\s*[\^×÷*+±x]\s*\d|\s*[<>≤≥]\s*\w|\s+in\s+(?:an? |every )?{_COUNTED}|\s*(?:point|comma)\s+{_COUNTED}"
    r"|\s*(?:and|plus|,)?\s*(?:an?|one|some)[\s-]+(?:little\s+|tiny\s+)?"
    r"(?:bit|half|quarter|third|fraction|tad|touch|smidge\w*|little)\b"
    r"|\s+(?:and|plus)\s+(?:some|change|more)\b\s*(?:[.,!]|$)|\s+(?:plus|minus)\b",
    re.IGNORECASE,
)
# of how many: "4 (out of 10)", "4 on a 10-point scale"
_OUT_OF = (
    rf"[\s,()\[\]—–-]*(?:/|out of|of)\s*(?:an? )?(?P<of>{_COUNTED})"
    rf"|[\s,()\[\]—–-]*(?:on|using) (?:an? |the )?(?P<points>{_COUNTED})[\s-]points?(?: scale)?\b"
)


class Mention(NamedTuple):
    """An option named by label, words or both: its place, −1 where it is not on offer, and its bounds."""

    place: int
    start: int
    end: int
    label: bool
    both: bool = False


def mentions(choices: Sequence[Choice], said: str) -> list[Mention]:
    """All options that a text names, meant or not.

    Args:
      choices: as shown.
      said: from `answer_text.plain`.
    Returns: mentions in order; a label with its own words is one mention.
    """
    found, hidden = _word_mentions(choices, said)
    hidden = re.sub(r"\b[nN]/[aA]\b", lambda m: " " * len(m.group()), hidden)
    if all(choice.label.isdigit() for choice in choices):
        found += _number_mentions(choices, hidden)
    else:
        found += _letter_mentions(choices, hidden)
    joined: list[Mention] = []
    for mention in sorted(found, key=lambda m: (m.start, m.end)):
        before = joined[-1] if joined else None
        if (
            before is not None
            and before.place == mention.place
            and before.label != mention.label
            and re.fullmatch(r"[\s)\](\[.:=,<>{}|/~—–-]*", said[before.end : mention.start])
        ):
            joined[-1] = Mention(mention.place, before.start, mention.end, True, True)
        else:
            joined.append(mention)
    return joined


def _word_mentions(choices: Sequence[Choice], said: str) -> tuple[list[Mention], str]:
    """Options whose words occur, longest first, and the text with these words hidden."""
    found, hidden = [], said
    labels = {choice.label.casefold() for choice in choices}
    for place in sorted(range(len(choices)), key=lambda i: -len(choices[i].words)):
        words = choices[place].words
        pattern = rf"(?<![\w.]){words_pattern(words)}(?![\w%]|[.,]\d)"
        if words.casefold() in ("yes", "no"):
            # "no answer" and "no doubt" do not mean "no"
            pattern = rf"(?<!\w){words}(?=\s*$|\s*[^\w\s]|\s+(?:i|and|or|but)\b|\s*\n)"
        for match in re.finditer(pattern, hidden, re.IGNORECASE):
            before, after = hidden[: match.start()], hidden[match.end() :]
            near = before[-_NEAR:]
            repeated = re.search(r"(\w+)\W+$", near)
            same = repeated and repeated.group(1).casefold() == words.split()[0].casefold()
            other = (_DEGREE_BEFORE.search(near) and not same) or _DEGREE_AFTER.match(after)
            denied = re.search(r"\bnot\s+$", near, re.IGNORECASE)
            # "no problem: yes" says no to nothing, or to the question
            unsure = words.casefold() == "yes" and re.search(
                r"\bno\s+(?!doubt|question)(?:\w+\s+)?\w+\W*$", near, re.IGNORECASE
            )
            # a different degree is a different answer, and so are words that are another option's label; a
            # denied option is judged as such
            off = (
                unsure
                or (other and not denied)
                or words.casefold() in labels - {choices[place].label.casefold()}
            )
            found.append(Mention(-1 if off else place, match.start(), match.end(), False))
            hidden = f"{before}{chr(0xE000) * (match.end() - match.start())}{after}"
        if words.casefold().startswith("neither ") and re.fullmatch(
            r"\W*(?:i'd say |it's )?neither(?: of (?:them|these|the two))?\W*", hidden, re.IGNORECASE
        ):
            found.append(Mention(place, 0, len(said), False))
    return found, hidden


def words_pattern(words: str) -> str:
    """A pattern for an option's words, with any blanks between them."""
    pattern = r"\s+".join(re.escape(word) for word in words.casefold().replace("’", "'").split())
    neither = re.fullmatch(r"neither (.+) nor (.+)", words.casefold())
    if neither:
        a, b = (re.escape(part) for part in neither.groups())
        return rf"neither\s+(?:{a}\s+n?or\s+{b}|{b}\s+n?or\s+{a})"
    pair = words.casefold().split()
    # "agree strongly" is "strongly agree"
    return rf"(?:{pattern}|{re.escape(pair[1])}\s+{re.escape(pair[0])})" if len(pair) == 2 else pattern


def _letter_mentions(choices: Sequence[Choice], said: str) -> list[Mention]:
    labels = {choice.label.casefold(): place for place, choice in enumerate(choices)}
    found: list[Mention] = []
    for match in re.finditer(r"(?<![\w'#+&.-])[^\W\d_](?![\w#+&]|'\w|-\w|\.\w)", said):
        letter, before, after = match.group(), said[: match.start()], said[match.end() :]
        place = labels.get(letter.casefold())
        if place is None:
            continue
        bracketed = before.endswith(("(", "[")) and after.startswith((")", "]"))
        alone = not before.strip(" \n([") and re.match(r"\s*$|\s*[)\].:,;!?=\n—–]|\s*-\s|\s+because\b", after)
        announced = bool(_NAMES_LABEL.search(before[-_NEAR:])) and not re.match(r"\s+[a-z]", after)
        if bracketed or alone or announced:
            taken = True
        elif letter.islower() or not _AFTER_LABEL.match(after):
            taken = False
        elif letter in "AI":
            # an article, unless the clause ends here or something announces a label
            ends = re.match(
                r"\s*$|\s*[^\w\s]|\s+(?:or|and|because|nor|but|to|is|it|on|for|here|in|this|please|as|since)\b"
                r"|\s+[B-Z](?![\w'])",
                after,
            )
            taken = bool(ends) and (not before.strip() or bool(_CUE.search(before[-_NEAR:])))
        else:
            taken = True
        if taken:
            found.append(Mention(place, match.start(), match.end(), True))
    return found


def _number_mentions(choices: Sequence[Choice], said: str) -> list[Mention]:
    labels = {int(choice.label): place for place, choice in enumerate(choices)}
    low, high = min(labels), max(labels)
    # the scale itself, such as "from 1 to 5"
    scale = rf"(?<![\w.]){low}\s*(?:to|-|–|through|and)\s*{high}(?![\w.,]*\d)"
    rest = re.sub(scale, lambda m: "\ue000" * len(m.group()), said)
    # digits after a point are part of a number, those after an ellipsis another number
    number = (
        r"(?<!\w)(?<!\d[.,])(?<!\s[.,])(?<!^[.,])(?P<sign>-(?=\d))?(?P<whole>\d+)(?:[.,](?P<part>\d+))?(?!\w)"
    )
    words = "|".join(_NUMBERS)
    stars = r"\s+(?:stars?|points?)(?! (?:as|for) (?:an?|the|this) question)"
    share = rf"(?:{stars})?(?:{_OUT_OF})?(?P<fraction>\s+\d+⁄\d+|⁄\d+)?"
    found: list[Mention] = []
    for match in re.finditer(rf"(?:{number}|\b(?P<word>{words})\b){share}", rest, re.IGNORECASE):
        before, after = rest[: match.start()], re.sub(r"\A\s+(?:stars?|points?)\b", "", rest[match.end() :])
        of = (match["of"] or match["points"] or "").casefold()
        if match["word"]:
            value = float(_NUMBERS.index(match["word"].casefold()))
        else:
            value = float(f"{match['sign'] or ''}{match['whole']}.{match['part'] or 0}")
        if (
            match["fraction"]
            or _CALCULATED.match(after)
            or re.search(r"(?:^|[\s(])[<>≤≥]=?\s*$", before[-_NEAR:])
            or (found and re.fullmatch(r"\s*[\^×÷*+±x]\s*", rest[found[-1].end : match.start()]))
            or (of and of not in (str(high), _NUMBERS[high] if high < len(_NUMBERS) else ""))
        ):
            value = -1.0
        first = not before.strip(" \n([)]:,|\ue000")
        listed = bool(found) and _LISTED.fullmatch(rest, found[-1].end, match.start())
        if (
            match["word"]
            and match["word"].casefold() == "one"
            and not ((first and not after.strip(" \n.!)]")) or _NAMES_LABEL.search(before[-_NEAR:]))
        ):
            continue
        if not (first or listed or _CUE.search(before[-_NEAR:]) or _RANGE.match(after)) or re.match(
            r"\s*%", after
        ):
            continue
        if value >= 0 and not (_AFTER_LABEL.match(after) or _RANGE.match(after)):
            # "3 times", "3 siblings": a number of something
            continue
        place = labels.get(int(value), -1) if value == int(value) else -1
        found.append(Mention(place, match.start(), match.end(), True))
    return found
