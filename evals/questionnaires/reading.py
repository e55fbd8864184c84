r"""Which option a written answer names: read right, or not at all.

Every option that a text names, by label or by words, is a mention; what stands around it tells whether it
is meant, denied, asked, weighed or somebody else's. One option meant is the answer; so is the last one where
the text corrects itself. A clause with words that are not known to be harmless is not read. Several options,
or none, are no answer: a guess would be worse than a gap. English, with the negations of some other
languages, so that "nicht B" is not B.

Not covered: finding the mentions (mentions), cleaning the text (answer_text), a model that reads what rules
cannot (judge).
"""

import re
from collections.abc import Sequence

from evals.questionnaires.answer_text import plain
from evals.questionnaires.mentions import Mention, words_pattern
from evals.questionnaires.mentions import mentions as find_mentions
from evals.questionnaires.respondent import (
    EMPTY,
    REFUSED,
    UNREADABLE,
    Answer,
    Question,
    chosen,
    no_answer,
)
from evals.questionnaires.wording import Choice

_REFUSALS = re.compile(
    r"\b(as an? (ai|language|artificial)|i am an ai|i'm an ai|language model"
    r"|i (cannot|can't|can not|won't|will not|do not have|don't have|am unable|am not able|decline|refuse)"
    r"|i'm (unable|not able|sorry)|sorry, |prefer not to|rather not (say|answer)|refuse to"
    r"|no (comment|answer)\b)",
    re.IGNORECASE,
)
# where a clause ends, so that "not" before it says nothing of what follows
_CLAUSE = re.compile(
    r"[.;:!?\n,—–(]|\s-\s|\b(?:(?<!anything )(?<!all )but|however|though|although|because|since"
    r"|so(?! far)|yet|therefore|instead(?! of))\b",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"\b(?:not|none|never|neither|nor|cannot|hardly|scarcely|barely|without|except|unlike|instead of"
    r"|rather than"
    r"|anything but|far from|wrong|false|untrue|lie|lying|exclude|rule out|ruling out|reject|avoid|refuse"
    r"|nicht|kein\w*|pas|jamais|nunca|niet|ikke|inte|nie|не|ни|no es|non è|nem)\b|n't\b|[不没沒非]|ない",
    re.IGNORECASE,
)
_DENIED_AFTER = re.compile(
    r"[\s)\]]*(?: ?(?:is|was|are|would be|seems|sounds|feels|goes)? ?(?:not\b|never\b|wrong\b|false\b|out\b"
    r"|untrue\b|incorrect\b|too\b|an? (?:lie|exaggeration|overstatement|stretch)\b|excluded\b)"
    r"|(?:does|do|is|was|would|can|could|will|did)(?: not\b|n't\b|not\b)|overstates|understates"
    r"|(?:would|might) (?:overstate|understate|exaggerate))"
    r"|\s*(?:では|じゃ|じゃあ)\s*な",
    re.IGNORECASE,
)
# weighed and left, somebody else's, of another time, or a bound: named, but not meant
_WEIGHED = re.compile(
    r"\b(?:between|(?<!second )thought|at first|initially|tempted|considered|hesitat\w+|whether|asked"
    r"|was going to|torn"
    r"|used to|would have(?! to)|have been|back then|in the past|as a child|years ago|formerly|when i was"
    r"|if i (?:was|were)(?! to\b| forced| asked| made| pressed)|instead of|rather than|compared (?:to|with)"
    r"|(?:more|less|higher|lower|greater|better|worse|fewer|other) than|above|below|over|under|at least"
    r"|at most|up to|almost|close to|closer to|nearly|(?:more|less|than|if)(?=\s*$)|beyond|short of"
    r"|except|plan|vitamin|type|grade|class"
    r"|group|hepatitis|team|section|appendix|serie|series)\b",
    re.IGNORECASE,
)
_PAIR = re.compile(r"\b(?:between|whether|torn|either|could be|might be|may be)\b", re.IGNORECASE)
# "D is tempting": judged, but not taken; "D is my answer" is
_JUDGED_AFTER = re.compile(
    r"[\s)\]]+(?:is|was|seems|sounds|feels|would be|might be|could be)\s+(?!my\b|mine\b|the\b|what\b"
    r"|how\b|best"
    r"|closest|right|correct|most|it\b|apt\b|accurate|me\b|fine\b|a good|a better|better|closer|fitting"
    r"|clearly"
    r"|probably|definitely|really|where\b|as\b)\w",
    re.IGNORECASE,
)
_BOUND_AFTER = re.compile(
    r"\s*(?:or (?:so|higher|lower|more|less|above|below|better|worse)|and (?:above|below|up)|at (?:best"
    r"|most|least)\b|[-–] ?ish)",
    re.IGNORECASE,
)
_OTHERS = re.compile(
    r"\b(?:friends?|people|others?|someone|somebody|they|he|she|you|mother|father|wife|husband|partner|boss"
    r"|colleagues?|everyone|everybody|parents?|sister|brother|teachers?)\b.*"
    r"\b(?:say|says|said|call|calls|choose|chooses|pick|think|thinks|answer|answers|expect|want|wants"
    r"|see|sees)",
    re.IGNORECASE | re.DOTALL,
)
_OF_MYSELF = re.compile(r"\b(?:like me|knows? me|who i am|as i am)\b", re.IGNORECASE)
_CORRECTED = re.compile(
    r"\bno(?:pe)?\b(?=\s*[,.!:;—–-]|\s+(?:wait|make|that))|\b(?:wait|actually|sorry|correction|i mean"
    r"|scratch that"
    r"|second thoughts?|or rather|final(?:ly)?|in the end|all in all|overall|on balance|make (?:that"
    r"|it)|settle"
    r"|so|therefore|thus|hence|answer(?: is|\s*:)|doch|nein|non|plutôt)\b",
    re.IGNORECASE,
)
# the limit of tokens came in the middle of "B or C"
_CUT_OFF = re.compile(r"\b(?:or|nor|to|between|not|either|and|/)\s*$", re.IGNORECASE)
_TENTATIVE = re.compile(r"\b(?:also|too|as well|sometimes|possibly|maybe|perhaps|otherwise)\b", re.IGNORECASE)


# an own decision: what stands before it in the clause gives a reason at most
_DECIDED = re.compile(
    r"(?:\bi(?:'d|'ll| would| will| do)?(?: \w+ly| just| have to| still)?"
    r" (?:choose|pick|say|go|go with|go for|select|answer|rate|put|settle on|opt for|give|mark|circle)"
    r"|\b(?:answer|choice|option|rating|pick|mark|letter|number|response|score)(?: for me)?"
    r"(?: is| would be|\s*[:=])?)"
    r"(?: (?:it|this|that|myself|me|as|an?|the|option|answer|number|letter|solid))*[\s(\[]*$",
    re.IGNORECASE,
)
# words that say nothing of their own around an option
_FRAME_WORDS = """
    i i'd i'm i'll i've would will do say call describe describes rate choose pick go going went with it
    it's its is that that's this as me my mine answer a an the statement description myself to have has
    had think guess suppose believe feel honestly definitely probably maybe perhaps just really for be
    being been of generally usually consider considered find option choice letter mark number code
    response rating score seems sounds sound seem on in general person like who knows know well must
    should put select selected and then also overall am now more thing fairest he she they one most best
    closest fitting accurate would've let's us you're asked or somewhere around about give solid clearly
    mostly here fits describing it'd that'd settle lean leaning towards toward opt circle tick final
    actually no yes wait make sorry hmm still always often rather first hence thus therefore so only
    mean happen happens je choisis la réponse respuesta es est antwort ist ответ elijo 我 选 择 答 案 是 回
    because but not very today please days if ai language model
"""
_FRAME = frozenset(_FRAME_WORDS.split())
_AFTER_FRAME = re.compile(
    r"\s*$|\s*[^\w\s]|\s*\n|\s+(?:for|about|of|me|here|i|i'd|i'm|since|because|as|in|on|and|or|but"
    r"|though|although"
    r"|that|this|description|statement|when|than|to me|to be|with|at|today|now|overall|is|it|it's|if"
    r"|most|by"
    r"|would|will|does|describes|fits|suits|too|really|rather|please|so|then|definitely|probably|maybe)\b",
    re.IGNORECASE,
)


def parse(question: Question, text: str) -> Answer:
    r"""Reads a written answer: the one option that it names and means, by label or by words.

    Not read are denied options ("not very accurate"), several ("B or C"), numbers between ("3.5"), a label
    with another option's words, and degrees that are not on offer ("somewhat agree"). An answer is taken even
    after an apology; else a refusal is a refusal.

    Args:
      question: as it was asked, for its labels and options.
      text: what was written; <think> blocks do not count.
    Returns: an Answer; without a value it says whether it was empty, refused or unreadable.
    Raises: nothing.

    Example:
      >>> from evals.questionnaires import Question, named_templates, parse
      >>> from evals.questionnaires.wording import Choice
      >>> options = (Choice(1.0, "Inaccurate", "A"), Choice(2.0, "Accurate", "B"))
      >>> asked = Question("i1", "Like parties.", "", options, named_templates(["form"])[0])
      >>> [parse(asked, said).value for said in ("(B) Accurate", "Option A", r"\boxed{B}", "A - no, B")]
      [2.0, 1.0, 2.0, 2.0]
      >>> [parse(asked, said).refusal for said in ("A or B", "not accurate", "I'm an AI.")]
      ['unreadable', 'unreadable', 'refused']
    """
    said = plain(text)
    if not said:
        return no_answer(EMPTY, text)
    place = named(question.choices, said)
    if place is not None:
        return chosen(question, place, text)
    return no_answer(REFUSED if _REFUSALS.search(said) else UNREADABLE, text)


def named(choices: Sequence[Choice], said: str) -> int | None:
    """The option that a text means.

    Args:
      choices: as shown.
      said: of `answer_text.plain`.
    Returns: its place; None where none is meant, or several are.
    """
    if _CUT_OFF.search(said):
        return None
    said = _without_listing(choices, said)
    mentions = find_mentions(choices, said)
    meant, unclear = _meant(mentions, said)
    begins = bool(meant) and meant[0].label and not said[: meant[0].start].strip(" \n([")
    places = {mention.place for mention in meant}
    if not meant or any(m.place not in places for m in unclear if m.label or not begins):
        return None
    if len(places) > 1:
        last, before = meant[-1], [m for m in meant if m.place != meant[-1].place][-1]
        corrected = _CORRECTED.search(said[before.end : last.start])
        if not corrected or _TENTATIVE.search(said[before.end :]):
            return None
        places = {last.place}
    place = places.pop()
    return place if place >= 0 else None


def _without_listing(choices: Sequence[Choice], said: str) -> str:
    """Without the options where all of them were copied."""
    lines = [
        re.compile(
            rf"[(\[]?{re.escape(c.label)}[)\].:=\s-]+{words_pattern(c.words)}[ \t.,;]*(?:\n|$)?",
            re.IGNORECASE,
        )
        for c in choices
    ]
    if not all(line.search(said) for line in lines):
        return said
    for line in lines:
        said = line.sub("", said, count=1)
    return said


def _meant(mentions: Sequence[Mention], said: str) -> tuple[list[Mention], list[Mention]]:
    """The mentions that the text gives as its answer, and those of which it is not clear."""
    meant: list[Mention] = []
    unclear: list[Mention] = []
    doubtful: list[Mention] = []
    denied = False
    for number, mention in enumerate(mentions):
        before = mentions[number - 1] if number else None
        clause = _clause_before(said, mention.start)
        between = said[before.end : mention.start] if before else ""
        in_list = (
            before is not None
            and re.fullmatch(r"[\s,/]*(?:(?:or|nor|and|to|through|[&–-])\s*)?", between) is not None
        )
        listed_on = denied and in_list and _list_goes_on(mentions, number, said)
        after = said[mention.end :]
        denied = bool(_DENIED.search(clause) or listed_on or _DENIED_AFTER.match(after))
        left = bool(
            _WEIGHED.search(clause)
            or _BOUND_AFTER.match(after)
            or (mention.label and _JUDGED_AFTER.match(after))
        )
        others = _OTHERS.search(clause) and not _OF_MYSELF.search(clause)
        if denied or left or others:
            continue
        if _weighed_with_next(mentions, number, said):
            continue
        if re.match(r"[\s)\].]*\?", after):
            doubtful.append(mention)
            continue
        if meant and meant[0].label and meant[0].start <= 2 and _passing(mention, meant[0], said):
            continue
        (meant if _plainly_said(mentions[:number], mention, clause, said) else unclear).append(mention)
    if not meant and not unclear and len({m.place for m in doubtful}) == 1:
        lead = said[: doubtful[0].start]
        after = said[doubtful[-1].end :]
        if len(lead.split()) <= 3 and not re.search(
            r"\b(no|hardly|never|not|why|is|are|was|do|does|would|should|could|what|which|how)\b|n't",
            lead + after,
            re.I,
        ):
            return doubtful, []
    return meant, unclear


def _plainly_said(earlier: Sequence[Mention], mention: Mention, clause: str, said: str) -> bool:
    """Whether only words that say nothing of their own stand around it, so that nothing is overlooked."""
    after = said[mention.end :]
    if not mention.label and (not _AFTER_FRAME.match(after) or re.match(r"\s+to\b(?! me| be)", after)):
        return False
    if _DECIDED.search(clause):
        return True
    clause = re.sub(r"\d+\s*(?:to|-|–)\s*\d+", " ", _CORRECTED.sub(" ", clause))
    for other in earlier:
        clause = clause.replace(said[other.start : other.end], " ")
    return all(word in _FRAME for word in re.findall(r"[\w']+", clause.casefold()))


def _clause_before(said: str, start: int) -> str:
    """What stands before a mention in its clause."""
    last = 0
    for boundary in _CLAUSE.finditer(said, 0, start):
        last = boundary.end()
    clause = said[last:start]
    # "(B)", "not: B" and "C." of an option's label end no clause by themselves
    return clause if clause.strip(" \n([") or not last else _open_before(said, last)


def _open_before(said: str, end: int) -> str:
    sign = said[:end].rstrip()[-1:]
    return _clause_before(said, len(said[:end].rstrip()) - 1) if sign in ("(", "[") else ""


def _list_goes_on(mentions: Sequence[Mention], number: int, said: str) -> bool:
    """Whether "or", "nor" or "and" joins this mention, or a later one of the same list: "not A, B or C"."""
    for i in range(number, len(mentions)):
        between = said[mentions[i - 1].end : mentions[i].start]
        if not re.fullmatch(r"[\s,/]*(?:(?:or|nor|and|to|through|[&–-])\s*)?", between):
            return False
        if re.search(r"or|nor|and|to|through|[&–-]", between):
            return True
    return False


def _weighed_with_next(mentions: Sequence[Mention], number: int, said: str) -> bool:
    """Whether this is one of two that are weighed: "between B and C", "it could be B or C"."""
    for i in (number - 1, number):
        if i < 0 or i + 1 >= len(mentions):
            continue
        joined = re.fullmatch(
            r"[\s,)\].]*(?:and|or)\s*[(\[]*", said[mentions[i].end : mentions[i + 1].start], re.IGNORECASE
        )
        if joined and _PAIR.search(_clause_before(said, mentions[i].start)):
            return True
    return False


def _passing(mention: Mention, first: Mention, said: str) -> bool:
    """Whether one common word in the reason after a label is an option by chance: "B. I agree with .."."""
    words = said[mention.start : mention.end].split()
    between = said[first.end : mention.start]
    return (
        not mention.label and len(words) == 1 and len(between.split()) >= 2 and not _CORRECTED.search(between)
    )
