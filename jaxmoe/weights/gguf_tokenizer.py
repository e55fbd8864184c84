"""A fast tokenizer from the tokenizer fields of a GGUF file.

Two kinds are built: byte-level BPE ("gpt2", with the pre-tokenizer that the file names) and SentencePiece BPE
with byte fallback ("llama"). A pre-tokenizer that is not in the table is refused: a wrong one would split
words differently than in training, and nothing would report it.
"""

from collections.abc import Mapping, Sequence

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from jaxmoe.weights.gguf_architectures import Fields

CONTROL, USER_DEFINED = 3, 4

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED_REST = r" ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"

_CL100K = rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}{{1,3}}|{_REST}"


def _cased(end: str) -> str:
    """Words split where small letters turn to capitals."""
    before = r"[^\r\n\p{L}\p{N}]?"
    return f"{before}{_UPPER}*{_LOWER}+{end}|{before}{_UPPER}+{_LOWER}*{end}"


# One regular expression that splits the text, from the published tokenizer.json files
SPLITS = {
    "llama3": _CL100K,
    "cl100k": _CL100K,
    "qwen2": rf"{_CONTRACTIONS}|{_WORD}|\p{{N}}|{_REST}",
    "tekken": rf"{_cased('')}|\p{{N}}|{_CASED_REST}",
    "gpt-4o": rf"{_cased(_CONTRACTIONS + '?')}|\p{{N}}{{1,3}}|{_CASED_REST}",
}
# what the files call them
PRE_TOKENIZERS = {
    "llama3": "llama3",
    "llama-v3": "llama3",
    "llama-bpe": "llama3",
    "falcon3": "llama3",
    "smaug-bpe": "llama3",
    "dbrx": "cl100k",  # Phi-4's too
    "qwen2": "qwen2",
    "deepseek-r1-qwen": "qwen2",
    "stablelm2": "qwen2",
    "tekken": "tekken",
    "gpt-4o": "gpt-4o",
    "llama4": "gpt-4o",
    # the digits one by one, then GPT-2's own rule
    "smollm": "digits",
    "starcoder": "digits",
    "refact": "digits",
    "command-r": "digits",
    "codeshell": "digits",
    "minerva-7b": "digits",
    "gpt-2": "gpt2",
    "olmo": "gpt2",
    "mpt": "gpt2",
    "phi-2": "gpt2",
}


def build_tokenizer(fields: Fields, *, gemma: bool = False) -> Tokenizer:
    """The tokenizer that the fields of a GGUF file describe.

    Args:
      fields: without the prefix `tokenizer.`: ggml.model, ggml.pre, ggml.tokens, ggml.merges, ...
      gemma: whether it is a Gemma's: its tokens of several spaces are stored as spaces, and merge in the
        order of tokens.
    Returns: the tokenizer with which the file's model was trained.
    Raises: ValueError for an unknown kind or pre-tokenizer, and for lists that do not belong together.
    """
    kind = fields.get("ggml.model")
    tokens = fields.get("ggml.tokens")
    if gemma and isinstance(tokens, Sequence):
        tokens = [token if token.strip(" ") else "▁" * len(token) for token in tokens]
        fields = {**fields, "ggml.scores": [-float(number) for number in range(len(tokens))]}
    if not isinstance(tokens, Sequence) or not tokens:
        raise ValueError(
            "the GGUF file holds no tokenizer (tokenizer.ggml.tokens); give the original checkpoint"
        )
    types = fields.get("ggml.token_type") or [1] * len(tokens)
    if len(types) != len(tokens):
        raise ValueError(f"tokenizer.ggml.token_type must have {len(tokens)} entries; got {len(types)}")
    match kind:
        case "gpt2":
            tokenizer = _byte_level(fields, tokens)
        case "llama":
            tokenizer = _sentence_piece(fields, tokens)
        case _:
            raise ValueError(f"tokenizer.ggml.model must be gpt2 or llama; got {kind!r}")
    # control tokens are never part of a text's words; user-defined ones are, but stay whole
    pairs = list(zip(tokens, types, strict=True))
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t, n in pairs if n == CONTROL])
    tokenizer.add_tokens([AddedToken(t, normalized=False) for t, n in pairs if n == USER_DEFINED])
    bos = fields.get("ggml.bos_token_id")
    if fields.get("ggml.add_bos_token", kind == "llama") and bos is not None:
        first = tokens[bos]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", pair=f"{first} $A {first} $B", special_tokens=[(first, bos)]
        )
    return tokenizer


def _byte_level(fields: Fields, tokens: Sequence[str]) -> Tokenizer:
    name = fields.get("ggml.pre", "default")
    if name not in PRE_TOKENIZERS:
        raise ValueError(
            f"tokenizer.ggml.pre must be one of {', '.join(PRE_TOKENIZERS)}; got {name!r}: put the original "
            "model's tokenizer.json beside the file, or give the original checkpoint"
        )
    merges = [tuple(merge.split(" ", 1)) for merge in fields.get("ggml.merges") or []]
    if any(len(pair) != 2 for pair in merges):
        raise ValueError("tokenizer.ggml.merges must hold pairs of tokens with a space between them")
    rule = PRE_TOKENIZERS[name]
    # Llama 3 and Tekken keep a word that is a token, whatever its merges would make of it
    whole = rule in ("llama3", "tekken")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges, ignore_merges=whole))
    spaced = bool(fields.get("ggml.add_space_prefix", False))
    bytes_of = pre_tokenizers.ByteLevel(add_prefix_space=spaced, use_regex=rule in ("gpt2", "digits"))
    before: dict[str, pre_tokenizers.PreTokenizer] = {"digits": pre_tokenizers.Digits(individual_digits=True)}
    before |= {key: pre_tokenizers.Split(Regex(split), "isolated") for key, split in SPLITS.items()}
    tokenizer.pre_tokenizer = (
        pre_tokenizers.Sequence([before[rule], bytes_of]) if rule in before else bytes_of
    )
    if rule == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _sentence_piece(fields: Fields, tokens: Sequence[str]) -> Tokenizer:
    scores = fields.get("ggml.scores")
    if scores is None or len(scores) != len(tokens):
        raise ValueError(f"tokenizer.ggml.scores must have {len(tokens)} entries, one for each token")
    vocabulary = {token: number for number, token in enumerate(tokens)}
    unknown = tokens[fields.get("ggml.unknown_token_id", 0)]
    merges = _merges(vocabulary, scores)
    tokenizer = Tokenizer(
        models.BPE(vocabulary, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    spaced = bool(fields.get("ggml.add_space_prefix", True))
    steps: list[normalizers.Normalizer] = [normalizers.Prepend("▁")] if spaced else []
    tokenizer.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    ends: list[decoders.Decoder] = [decoders.Strip(" ", 1, 0)] if spaced else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *ends]
    )
    return tokenizer


def _merges(vocabulary: Mapping[str, int], scores: Sequence[float]) -> list[tuple[str, str]]:
    """The merges of a SentencePiece vocabulary, best first: every split of a token into two tokens.

    A piece's score is minus its rank in training; if one piece has several splits, those whose parts came
    first are tried first.
    """
    pairs = []
    for token, number in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = vocabulary.get(token[:cut]), vocabulary.get(token[cut:])
            if left is not None and right is not None:
                pairs.append((-scores[number], left, right, token[:cut], token[cut:]))
    return [(left, right) for *_, left, right in sorted(pairs)]
