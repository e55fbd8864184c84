r"""Which option a written answer names: read right, or not at all.

Every option that a text names, by label or by words, is a mention; the words around it show whether it is
meant, denied, asked about, weighed, mocked, about another time or somebody else's. If one option is meant, it
is the answer; so is the last one if the text corrects itself. A clause with words that are not known to be
harmless is not read. Several options, or none, are not an answer: a guess would be worse than a gap.

Not covered: finding the mentions (mentions), the patterns of their surroundings (contexts), cleaning the text
(answer_text), a model that reads what rules cannot (judge).
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Sequence

from evals.questionnaires.answer_text import plain
from evals.questionnaires.contexts import (
    AFTER_FRAME,
    ALL_BUT,
    BOUND_AFTER,
    CLAUSE,
    CORRECTED,
    CUT_OFF,
    DECIDED,
    DENIED,
    DENIED_AFTER,
    ELSEWHERE,
    FRAME,
    IS,
    LEFT_AFTER,
    MOCKED,
    NOT_SO,
    OF_MYSELF,
    ONLY_ASKED,
    OTHERS,
    PAIR,
    PRAISED,
    REPEATED,
    RETRACTED,
    SENTENCE,
    STATED,
    STRUCK,
    TAKEN_BACK,
    TENTATIVE,
    WEIGHED,
    YES_OR_NO,
)
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
_QUESTION = re.compile(r"[^.;!?\n]*\?")
_JOINED = re.compile(r"[\s,/]*(?:(?P<word>or|nor|and|to|through|[&–-])\s*)?")
# only this many characters of a longer text are read
_READ = 2000
# a clause as long as this is not a plain answer
_LONG = 300


def parse(question: Question, text: str) -> Answer:
    r"""Reads a written answer: the one option that it names and means, by label or by words.

    It does not read denied options ("not very accurate"), several options ("B or C"), numbers in between
    ("3.5"), a label with another option's words, degrees that are not on offer ("somewhat agree"), other
    people's answers, or agreement with a statement other than the item. In a long text the first line and the
    end count. An answer is taken even after an apology; otherwise a refusal is a refusal.

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
    place = named(question.choices, said, question.text)
    if place is not None:
        return chosen(question, place, text)
    return no_answer(REFUSED if _REFUSALS.search(said) else UNREADABLE, text)


def named(choices: Sequence[Choice], said: str, item: str = "") -> int | None:
    """The option that a text means.

    Args:
      choices: as shown.
      said: from `answer_text.plain`.
      item: the statement that was answered, to tell agreement with it from agreement with another.
    Returns: the option's place; None where none is meant, or several are.
    """
    said = _shortened(_without_listing(choices, _without_item(said, item)))
    if CUT_OFF.search(said) or MOCKED.search(said) or STRUCK.search(said):
        return None
    mentions = find_mentions(choices, said)
    meant, unclear = _meant(mentions, said, item)
    places = {mention.place for mention in meant}
    # after a label with its own words, other words give a reason; after a bare one they may explain it
    told = bool(meant) and meant[0].both and not said[: meant[0].start].strip(" \n([")
    if not meant or any(m.place not in places for m in unclear if m.label or not told):
        return None
    if len(places) > 1:
        last, before = meant[-1], [m for m in meant if m.place != meant[-1].place][-1]
        # "E, so Very Accurate" says in words what the label means, and takes nothing back
        explains = before.label and not last.label
        corrected = (RETRACTED if explains else CORRECTED).search(said[before.end : last.start])
        if not corrected or TENTATIVE.search(said[before.end :]):
            return None
        places = {last.place}
    place = places.pop()
    return place if place >= 0 else None


def _without_item(said: str, item: str) -> str:
    """The text with "it" in place of the item, whose words say nothing about the answer."""
    words = [re.escape(word) for word in item.strip(" .!").split()]
    pattern = r"\b" + r"\s+".join(words) + r"\b"
    return re.sub(pattern, "it", said, flags=re.IGNORECASE) if len(words) > 1 else said


def _shortened(said: str) -> str:
    """The first paragraph, if it is a line, and the last ones of a long text.

    A model that reasons at length ends with its answer, one that explains at length begins with it; what lies
    in between weighs options, and analyzing all of that takes time that grows faster than the text.
    """
    if len(said) <= _READ:
        return said
    first = said.split("\n", 1)[0]
    end = said[-_READ:]
    # from the first whole paragraph on, else line, else sentence: half of one may lack its "not"
    for bound in (r"\n\s*\n", r"\n", r"[.!?]\s"):
        whole = re.search(bound, end)
        if whole:
            end = end[whole.end() :]
            return f"{first}\n\n{end}" if len(first) < _LONG else end
    return ""


def _without_listing(choices: Sequence[Choice], said: str) -> str:
    """The text without the list of options, if all of them were copied."""
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


def _meant(mentions: Sequence[Mention], said: str, item: str) -> tuple[list[Mention], list[Mention]]:
    """The mentions that the text gives as its answer, and those for which this is not clear."""
    meant: list[Mention] = []
    unclear: list[Mention] = []
    doubtful: list[Mention] = []
    denied = False
    bounds = [boundary.end() for boundary in CLAUSE.finditer(said)]
    lists = _lists_go_on(mentions, said)
    for number, mention in enumerate(mentions):
        start = _clause_start(said, mention.start, bounds)
        clause = said[start : mention.start].rstrip(" \n([")
        after = said[mention.end :]
        following = mentions[number + 1].start if number + 1 < len(mentions) else len(said)
        denied = bool(
            DENIED.search(clause)
            or (denied and lists[number])
            # the "not" in the next option's words says nothing about this one: "B) Not at all"
            or DENIED_AFTER.match(said, mention.end, following)
            or ALL_BUT.search(said, max(0, mention.start - _LONG), mention.start)
        )
        if (
            denied
            or _left(said, mention, clause, following)
            or TAKEN_BACK.search(said[mention.end : following])
            or (not mention.label and _states_another(after, item))
            or _weighed_with_next(mentions, number, said, bounds)
        ):
            continue
        if _QUESTION.match(after):
            doubtful.append(mention)
            continue
        if meant and meant[0].label and meant[0].start <= 2 and _passing(mention, meant[0], said):
            continue
        earlier = mentions[bisect_left(mentions, start, key=_start) : number]
        (meant if _plainly_said(earlier, mention, clause, said) else unclear).append(mention)
    if not meant and not unclear and len({m.place for m in doubtful}) == 1:
        lead = said[: doubtful[0].start]
        after = said[doubtful[-1].end :]
        if (
            len(lead.split()) <= 3
            and (asked := ONLY_ASKED.match(after))
            and _all_in(after[asked.end() :], FRAME)
            and not re.search(
                r"\b(no|hardly|never|not|why|is|are|was|do|does|would|should|could|what|which|how|you|who|says?)\b|n't",
                lead + after,
                re.IGNORECASE,
            )
        ):
            return doubtful, []
    return meant, unclear


def _start(mention: Mention) -> int:
    return mention.start


def _left(said: str, mention: Mention, clause: str, following: int) -> bool:
    """Whether an option is named but not chosen: weighed, judged, a bound, about others or another time."""
    after = said[mention.end :]
    judged = IS.match(after)
    # "E is Very Accurate" judges nothing, it explains the label
    if judged and said[mention.end + judged.end() : following].strip():
        rest = CLAUSE.split(after[judged.end() :], maxsplit=1)[0].casefold()
        if re.search(r"\blike to\b|'d like\b", rest) or not _all_in(rest, PRAISED):
            return True
    sentence = SENTENCE.split(said[max(0, mention.start - _LONG) : mention.start])[-1]
    others = OTHERS.search(clause) or ELSEWHERE.search(sentence)
    return bool(
        WEIGHED.search(clause)
        or BOUND_AFTER.match(after)
        or LEFT_AFTER.match(said, mention.end, following)
        or NOT_SO.search(SENTENCE.split(after[:_LONG], maxsplit=1)[0])
        or _contradicted(said[mention.start : mention.end], after)
        or (others and not OF_MYSELF.search(sentence))
    )


def _contradicted(words: str, after: str) -> bool:
    """Whether "yes" continues as "I don't", or "no" as "I do"."""
    option = YES_OR_NO.search(words)
    said = REPEATED.match(after)
    return bool(option and said and (option.group().casefold() == "yes") == bool(DENIED.search(said["verb"])))


def _states_another(after: str, item: str) -> bool:
    """Whether an option's words are about something other than the item: "very accurate that I hate it"."""
    match = STATED.match(after)
    if not match:
        return False
    stated = CLAUSE.split(after[match.end() :], maxsplit=1)[0].casefold()
    words = [word for word in re.findall(r"[\w']+", stated) if word not in FRAME]
    stems = {word[:4] for word in re.findall(r"[\w']+", item.casefold())}
    denied = bool(DENIED.search(stated))
    turned = denied != bool(DENIED.search(item)) and (denied or bool(words))
    return turned or any(word[:4] not in stems for word in words)


def _all_in(text: str, words: frozenset[str]) -> bool:
    return all(word in words for word in re.findall(r"[\w']+", text.casefold()))


def _plainly_said(earlier: Sequence[Mention], mention: Mention, clause: str, said: str) -> bool:
    """Whether only words that say nothing by themselves surround it, so that nothing is overlooked."""
    after = said[mention.end :]
    if len(clause) > _LONG:
        return False
    if not mention.label and (
        not AFTER_FRAME.match(after) or re.match(r"\s+to\b(?! me| be| say that)", after)
    ):
        return False
    if DECIDED.search(clause):
        return True
    clause = re.sub(r"\d+\s*(?:to|-|–)\s*\d+", " ", CORRECTED.sub(" ", clause))
    for other in earlier:
        clause = clause.replace(said[other.start : other.end], " ")
    return _all_in(clause, FRAME)


def _clause_start(said: str, start: int, bounds: Sequence[int]) -> int:
    """Where the clause of a mention begins; `bounds` are where the text's clauses begin."""
    end = start
    while True:
        number = bisect_right(bounds, end)
        last = bounds[number - 1] if number else 0
        if said[last:end].strip(" \n([") or not last:
            return last
        # a bracket ends no clause by itself: "E (Very Accurate)" says both
        before = said[max(0, last - _LONG) : last].rstrip()
        if before[-1:] not in ("(", "["):
            return start
        end = last - (min(last, _LONG) - len(before)) - 1


def _lists_go_on(mentions: Sequence[Mention], said: str) -> list[bool]:
    """For each mention, whether "or" or "and" joins it, or a later one of its list: "not A, B or C"."""
    found = [False] * (len(mentions) + 1)
    for i in range(len(mentions) - 1, 0, -1):
        joined = _JOINED.fullmatch(said, mentions[i - 1].end, mentions[i].start)
        found[i] = joined is not None and (bool(joined["word"]) or found[i + 1])
    return found


def _weighed_with_next(mentions: Sequence[Mention], number: int, said: str, bounds: Sequence[int]) -> bool:
    """Whether this is one of two options being weighed: "between B and C", "it could be B or C"."""
    for i in (number - 1, number):
        if i < 0 or i + 1 >= len(mentions):
            continue
        joined = re.fullmatch(
            r"[\s,)\].]*(?:and|or)\s*[(\[]*", said[mentions[i].end : mentions[i + 1].start], re.IGNORECASE
        )
        start = mentions[i].start
        if joined and PAIR.search(said, _clause_start(said, start, bounds), start):
            return True
    return False


def _passing(mention: Mention, first: Mention, said: str) -> bool:
    """Whether a common word in the reason after a label is an option only by chance: "B. I agree with .."."""
    words = said[mention.start : mention.end].split()
    between = said[first.end : mention.start]
    # "E, that is, I agree" explains a bare label
    reason = first.both or (re.search(r"[.!\n]", between) and re.match(r"\s+\w", said[mention.end :]))
    return bool(
        reason
        and not mention.label
        and len(words) == 1
        and len(between.split()) >= 2
        and not CORRECTED.search(between)
    )
