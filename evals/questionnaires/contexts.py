"""What may surround an option in a written answer, as patterns: denied, weighed, mocked, somebody else's.

English, plus the negations of some other languages, so that "nicht B" is not B. Not covered: which words are
searched for an option (reading).
"""

import re

# where a clause ends, so that "not" before it says nothing about what follows
CLAUSE = re.compile(
    r"[.;:!?\n,—–(]|\s-\s|\b(?:(?<!anything )(?<!all )but|however|though|although|because|since"
    r"|so(?! far)|yet|therefore|instead(?! of))\b",
    re.IGNORECASE,
)
DENIED = re.compile(
    r"\b(?:not|none|never|neither|nor|cannot|hardly|scarcely|barely|without|except|unlike|instead of"
    r"|rather than"
    r"|anything but|far from|wrong|false|untrue|lie|lying|exclude|rule out|ruling out|reject|avoid|refuse"
    r"|nicht|kein\w*|pas|jamais|nunca|niet|ikke|inte|nie|не|ни|no es|non è|nem)\b|n't\b|[不没沒非]|ない",
    re.IGNORECASE,
)
DENIED_AFTER = re.compile(
    r"[\s)\]]*(?: ?(?:is|was|are|would be|seems|sounds|feels|goes)? ?(?:not\b|never\b|wrong\b|false\b|out\b"
    r"|untrue\b|incorrect\b|too\b|as well\b|an? (?:lie|exaggeration|overstatement|stretch)\b|excluded\b)"
    r"|(?:does|do|is|was|would|can|could|will|did)(?: not\b|n't\b|not\b)|overstates|understates"
    r"|i (?:do|would|am|will|can) not\s*(?:[.!]|$)"
    r"|(?:would|might) (?:overstate|understate|exaggerate))"
    r"|\s*(?:では|じゃ|じゃあ)\s*な",
    re.IGNORECASE,
)
# "any of them but B" names all options but that one
ALL_BUT = re.compile(
    r"\b(?:any\w*|all|each|every\w*|whichever|whatever)\b"
    r"(?: (?:one|of|the|these|those|them|other|options?|answers?|choices?|ratings?|letters?|numbers?))*"
    r",?(?: but| (?:save|bar|minus|without|except(?:ing|ed)?|excluding|other than|apart from|aside from))"
    r"(?: the| option| for){0,2}[\s:(\[]*$",
    re.IGNORECASE,
)
# struck out or crossed, in the signs used for that
STRUCK = re.compile(r"~(?=\S)[^~\n]*(?<=\S)~|(?:^|\s)!\w|[¬≠❌❎✗✘✖☒🚫👎]")
# weighed and dropped, somebody else's, about another time, or a bound: named, but not meant
WEIGHED = re.compile(
    r"\b(?:between|(?<!second )thought|at first|initially|tempted|considered|hesitat\w+|whether|asked"
    r"|was going to|torn"
    r"|used to|would have(?! to)|have been|back then|in the past|as a child|years ago|formerly|when i was"
    r"|if i (?:was|were)(?! to\b| forced| asked| made| pressed)|instead of|rather than|compared (?:to|with)"
    r"|(?:more|less|higher|lower|greater|better|worse|fewer|other) than|above|below|over|under|at least"
    r"|at most|should(?! (?:say|choose|pick|answer|go|think|be|rate|give|mark|put|select|circle)\b)|least"
    r"|worst|poorest|weakest|furthest|farthest|opposite"
    r"|last(?= (?:\w+ )?(?:choice|option|answer|number|letter|thing|one|pick)\b)"
    r"|up to|almost|close to|closer to|nearly|(?:more|less|than|if)(?=\s*$)|beyond|short of"
    r"|except|plan|vitamin|type|grade|class"
    r"|group|hepatitis|team|section|appendix|serie|series)\b",
    re.IGNORECASE,
)
PAIR = re.compile(r"\b(?:between|whether|torn|either|could be|might be|may be)\b", re.IGNORECASE)
IS = re.compile(r"[\s)\]]+(?:is|was|seems|sounds|feels|would(?: be)?|(?:might|could) be)\b", re.IGNORECASE)
BOUND_AFTER = re.compile(
    r"\s*(?:or (?:so|higher|lower|more|less|above|below|better|worse)|and (?:above|below|up)|at (?:best"
    r"|most|least)\b|[-–] ?ish)",
    re.IGNORECASE,
)
# a condition that does not hold, "D, were I braver", except one that the questionnaire sets
NOT_SO = re.compile(
    r"\b(?:(?:were|should|could) (?:i|it|things)|had (?:i|it not)"
    r"|(?<!as )if (?:i|it|things) (?:was|were|had|could))\b"
    r"(?!(?: have)? to\b(?! be (?!honest|frank))"
    r"| (?:choose|pick|answer|say|guess|be honest|honest|forced|asked|made|pressed))",
    re.IGNORECASE,
)
_PEOPLE = (
    r"\b(?:friends?|people|persons?|others?|someone|somebody|they|them|he|him|she|her|you|mother|father"
    r"|mom|mum|dad|wife|husband|partner|spouse|girlfriend|boyfriend|boss|colleagues?|co-?workers?|roommates?"
    r"|neighbou?rs?|famil(?:y|ies)|everyone|everybody|anyone|anybody|nobody|no one|parents?"
    r"|sisters?|brothers?|sons?|daughters?|teachers?|introverts?|extr[ao]verts?)\b"
)
OTHERS = re.compile(
    rf"{_PEOPLE}.*\b(?:say|says|said|call|calls|choose|chooses|pick|think|thinks|answer|answers|expect"
    r"|want|wants|see|sees|put|puts|give|gives)"
    r"|(?:^|\b(?:think|believe|guess|suppose|sure|that))\s*(?:most|many|some|few|all|one|any)(?: of \w+)?"
    r" (?:would|will|might|may|could|can|do)\b"
    r"|\b(?:they|he|she|you)(?: would| will| do| does|'d|'ll| might| could| may)?"
    r"(?: \w+ly| always| often)?\s*$",
    re.IGNORECASE | re.DOTALL,
)
# the sentence up to an option is about others or another time
ELSEWHERE = re.compile(
    rf"{NOT_SO.pattern}|"
    r"\b(?:according to(?! me\b| how i)|in the (?:eyes|opinion|view) of"
    r"|in (?:his|her|their) (?:eyes|opinion|view)|in the past|as a (?:child|kid|teen\w*)|when i was|until"
    r"|\w+ years ago|back then|formerly|last (?:year|time|month)|yesterday|previous(?:ly)?|earlier i"
    r"|(?<!at )least|worst|second (?:choice|best)"
    r"|runner-up|for example|for instance|example|format|on paper|in theory|in principle|ideally|hopefully"
    r"|in my dreams|lies?(?=\s*:)|(?<!\S )(?<!\S)(?:wrong|excluded|ruled out|not applicable|rejected)(?=\s*:)"
    r"|(?:for|to|ask) (?:most|some|many|my|an?|other) (?:\w+ )?"
    rf"{_PEOPLE}(?! like me))",
    re.IGNORECASE,
)
SENTENCE = re.compile(
    r"(?<!\be\.g)[.;!?\n](?!\d)|\b(?:but|now|nowadays|today|these days|however|though|whereas|while)\b",
    re.IGNORECASE,
)
# agreement with something other than the statement, or a rating of how it is worded
_ANOTHER_MATTER = (
    r"(?:with|to) (?:\w+ ){0,2}?(?:opposite|reverse|contrary|converse|inverse|negation|none|nothing|neither"
    r"|half|parts?)\b"
    r"|as a question\b|for (?:the )?(?:wording|phrasing|effort|style|grammar|spelling)\b"
)
# a condition, another time or another person right after an option
LEFT_AFTER = re.compile(
    r"[\s,)\]…(—–-]*(?:but )?(?:"
    r"(?:only |except )?(?:if|unless|provided|assuming|supposing|in case|on condition|as long as)\b"
    r"(?! (?:i|we)(?:'m| am| was| were| had| have| must| may| can)?"
    r" (?:being |really |absolutely |just )?(?:honest|forced|asked|pressed|made|to|must|may|think"
    r"|choose|pick|answer|understand|interpret|consider|look|reflect|recall|remember)\b"
    r"| you(?! (?:ask|believe) (?:my|an?)\b)| asked| forced| pressed| pushed"
    r"| anything| so\b| not\b| it (?:has|must)| that makes| need be| possible)"
    r"|only (?:when|on|in|at|with|after|before)\b"
    r"|when (?!i\b|it\b|we\b|asked\b|forced\b)|when i was|in the past|until\b|once\b"
    r"|given an?\b|(?:given|with) (?:enough|more|less|better|different)\b"
    r"|in (?:an?(?:other)?|my|some) (?:\w+ )?(?:world|universe|life|reality)\b|or so\b"
    r"|in (?:theory|principle)\b|on paper|for (?:instance|example)"
    r"|for (?:some|many|most)\s*(?:[,.;!]|$)|with those\b"
    r"|before (?:the|my|i)\b|as a (?:child|kid|teen\w*)|(?:\w+ )?(?:years|decades) ago|back then"
    r"|back when|in (?:my (?:youth|dreams|twenties)|those days)|according to\b"
    r"|(?:says?|said|thinks?|claims?) (?!i\b)"
    r"|(?:is|was|describes|fits|suits|matches|applies to|for|of|about|to|with|in)\s+(?:(?!me\b)\w+ ){0,2}"
    rf"{_PEOPLE}(?! like me)"
    rf"|{_ANOTHER_MATTER}"
    r"|my \w+ (?:says|said|thinks|claims|insists|would say|(?:does|is)\s*(?:[.,!]|$))"
    r")",
    re.IGNORECASE,
)
# said and taken back, or never meant
TAKEN_BACK = re.compile(
    r"\b(?:it|that|this|which)(?:'s| is| was| would be)(?: \w+)? (?:not true|untrue|a lie|false|wrong"
    r"|incorrect|a joke|not me|the (?:reverse|opposite))\s*(?:[.!,:;)]|$)"
    r"|\b(?:reverse|opposite) is (?:true|the case)"
    r"|\bi(?: do not|'m not| don't| am not) (?:mean it|mean that|serious|think so)\b"
    r"|\b(?:but|hmm+|actually|then again)(?:,? (?:well|hmm+|actually|really))*,?"
    r" (?:no(?:pe)?|not (?:really|quite|so))\s*(?:[.!…)]|$)"
    r"|[(\[](?:no(?:pe)?|never|wrong|false|untrue|incorrect)[)\]!.,]"
    r"|\bnot (?:a chance|in a (?:million|thousand)|in (?:this|my) life)\b",
    re.IGNORECASE,
)
MOCKED = re.compile(
    r"(?:^|[.!?…,;:()—–-])\s*(?:oh,? |ha,? |haha,? |lol,? |well,? )?(?:(?:i'm |i am |i was |only |just )*"
    r"(?:kidding|joking)|yeah,? right|as if|i wish|if only|not|in my dreams|dream on|sarcas\w+)"
    r"\s*(?:[.!?)…]|$)"
    r"|\bsaid (?:no ?one|nobody|no \w+)\b|(?:^|\s)/s\b|\bmy foot\b",
    re.IGNORECASE,
)
YES_OR_NO = re.compile(r"\b(?:yes|no)$", re.IGNORECASE)
# only the question's verb: "I do", "I am not", "it never is"
REPEATED = re.compile(
    r"[\s,.;:!)—–-]*(?:but |except (?:that )?)?(?:i|it|that|this|we|they)"
    r"(?P<verb>(?:'[ms]|'ve|n't|'t|\s+(?:do|does|did|am|is|are"
    r"|was|have|has|can|ca|could|will|wo|would|not|never|often|always|sometimes|usually|really|actually|still"
    r"|definitely|certainly|indeed|me|true))+)\s*(?:[.,;!…)]|$)",
    re.IGNORECASE,
)
OF_MYSELF = re.compile(r"\b(?:like me|knows? me|who i am|as i am)\b", re.IGNORECASE)
RETRACTED = re.compile(
    r"\bno(?:pe)?\b(?=\s*[,.!:;—–-]|\s+(?:wait|make|that))|\b(?:wait|actually|sorry|correction|scratch that"
    r"|second thoughts?|or rather|make (?:that|it)|doch|nein|non|plutôt)\b",
    re.IGNORECASE,
)
# what comes last counts, though what came before is not taken back
CORRECTED = re.compile(
    rf"{RETRACTED.pattern}|\b(?:i mean|final(?:ly)?|in the end|all in all|overall|on balance|settle"
    r"|so|therefore|thus|hence|answer(?: is|\s*:))\b",
    re.IGNORECASE,
)
# the token limit cut in the middle of "B or C"
CUT_OFF = re.compile(r"\b(?:or|nor|to|between|not|either|and|/)\s*$", re.IGNORECASE)
TENTATIVE = re.compile(r"\b(?:also|too|as well|sometimes|possibly|maybe|perhaps|otherwise)\b", re.IGNORECASE)
# the writer's own decision: what precedes it in the clause gives a reason at most
DECIDED = re.compile(
    r"(?:\bi(?:'d|'ll| would| will| do)?(?: \w+ly| just| have to| still)?"
    r" (?:choose|pick|say|go|go with|go for|select|answer|rate|put|settle on|opt for|give|mark|circle)"
    r"|\b(?:answer|choice|option|rating|pick|mark|letter|number|response|score)(?: for me)?"
    r"(?: is| would be|\s*[:=])?)"
    r"(?: (?:it|this|that|myself|me|as|an?|the|option|answer|number|letter|solid"
    r"|at|my agreement"
    r"|(?:rating|score) of))*[\s(\[]*$",
    re.IGNORECASE,
)
# words around an option that say nothing by themselves
_FRAME_WORDS = """
    i i'd i'm i'll i've would will do say call describe describes rate choose pick go going went with it
    it's its is that that's this as me my mine answer a an the statement description myself to have has
    had think guess suppose believe feel honestly definitely probably maybe perhaps just really for be
    being been likely can truth of generally usually consider considered find option choice letter mark number
    code response rating score seems sounds sound seem on in general person like who knows know well must
    should put select selected and then also overall am now more thing fairest he she they one most best
    closest fitting accurate would've let's us you're asked or somewhere around about give solid clearly
    mostly here fits describing it'd that'd settle lean leaning towards toward opt circle tick final
    actually no yes wait make sorry hmm still always often rather first hence thus therefore so only
    mean happen happens je choisis la réponse respuesta es est antwort ist ответ elijo 我 选 择 答 案 是 回
    because but not very today please days if ai language model
"""
FRAME = frozenset(_FRAME_WORDS.split())
# what an option may be called and still be meant: "D is the closest", not "D is tempting"
_PRAISES = """
    right correct apt fine good better fitting fit fits suits matches reflects represents closer nearest truth
    true exactly precisely perfect appropriate suitable where stand belong identify how see what what'd which
    winner obvious behave act honest fair definitive opinion view above by far comes choosing giving mine
"""
_OF_OTHERS = "he she they you're asked must should not no but wait ai"
PRAISED = FRAME.difference(_OF_OTHERS.split()).union(_PRAISES.split())
# a statement after an option: "I agree that I am shy"
STATED = re.compile(
    r"\s+(?:with (?:the|this) (?:statement|claim|idea|description) |to say )?(?:that|i|i'm|i've|my)\b",
    re.IGNORECASE,
)
ONLY_ASKED = re.compile(
    r"[\s,)\].]*(?:right|no|ok|okay|perhaps|maybe|i (?:guess|think|suppose))?\s*\?", re.IGNORECASE
)
AFTER_FRAME = re.compile(
    r"\s*$|\s*[^\w\s]|\s*\n|\s+(?:for|about|of|me|here|i|i'd|i'm|since|because|as|in|on|and|or|but"
    r"|though|although"
    r"|that|this|description|statement|when|than|to me|to be|to say that|with|at|today|now|overall|is|it"
    r"|it's|if|most|by"
    r"|would|will|does|describes|fits|suits|too|really|rather|please|so|then|definitely|probably|maybe)\b",
    re.IGNORECASE,
)
