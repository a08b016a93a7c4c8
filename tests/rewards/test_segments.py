import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rewards.response import parse
from rewards.segments import SegmentError, byte_level_offsets, segment_lengths

RESPONSE = (
    "<observation>\nNear things slide left, é 🎥 日本.</observation>\n\n<think>So it trucks.</think><answer>A</answer>"
)


def train(split: bool) -> PreTrainedTokenizerFast:
    """A byte-level BPE of few merges; without splitting into words, tokens reach across the ends of tags."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<|end|>", "<|pad|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([RESPONSE, "</observation>\n\n<think>", "</observation><think>"] * 3, trainer)
    tokenizer.add_tokens(["<answer>", "two words"])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|end|>", pad_token="<|pad|>")


TOKENIZERS = [train(True), train(False)]
END = TOKENIZERS[0].eos_token_id
texts = st.text() | st.sampled_from(["é", "🎥", "日本", "</observation>", "\n\n", "<think>", "two words", "\ufffd"])


def lengths_of(tokenizer, ids, schema="ota"):
    text, starts = byte_level_offsets(tokenizer)(ids)
    return segment_lengths(starts, parse(text, schema))


def starts_one_by_one(tokenizer, ids):
    """The slow way: a token begins where the decoding of all tokens before it ends, less an unfinished character."""
    starts, full = [], tokenizer.decode(ids, skip_special_tokens=True)
    for place in range(len(ids)):
        before = tokenizer.decode(ids[:place], skip_special_tokens=True)
        while not full.startswith(before):  # a character that the next token finishes
            before = before[:-1]
        starts.append(len(before))
    return starts


@settings(deadline=None)
@given(st.lists(texts, max_size=8).map("".join), st.sampled_from(TOKENIZERS), st.integers(0, 3), st.booleans())
def test_places_are_those_of_decoding_bit_by_bit(text, tokenizer, cut, ended):
    ids = tokenizer.encode(text)
    ids = ids[: len(ids) - cut] + [tokenizer.eos_token_id] * ended
    decoded, starts = byte_level_offsets(tokenizer)(ids)
    assert decoded == tokenizer.decode(ids, skip_special_tokens=True)
    assert len(starts) == len(ids) and all(a <= b for a, b in zip(starts, starts[1:]))
    if "\ufffd" not in decoded:
        assert starts.tolist() == starts_one_by_one(tokenizer, ids)


@settings(deadline=None)
@given(st.lists(st.integers(0, len(TOKENIZERS[0]) + 5), max_size=60), st.sampled_from(TOKENIZERS))
def test_any_sampled_ids_are_placed(ids, tokenizer):
    """Invalid UTF-8 and numbers beyond the vocabulary included."""
    decoded, starts = byte_level_offsets(tokenizer)(ids)
    assert decoded == tokenizer.decode(ids, skip_special_tokens=True)
    assert all(0 <= start <= len(decoded) for start in starts)
    lengths = lengths_of(tokenizer, ids)
    assert lengths["perception"] + lengths["reasoning"] == len(ids)


@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_segments_divide_a_response_at_the_end_of_the_observation(tokenizer):
    ids = [*tokenizer.encode(RESPONSE), END]
    lengths = lengths_of(tokenizer, ids)
    perception = tokenizer.decode(ids[: lengths["perception"]])
    assert perception.startswith(RESPONSE.partition("</observation>")[0] + "</observation>")
    assert "<think>" not in tokenizer.decode(ids[: lengths["perception"] - 1])
    assert lengths["perception"] + lengths["reasoning"] == len(ids)  # the end-of-text token is reasoning


def test_a_token_across_the_end_belongs_to_where_it_begins():
    text = "<observation>o</observation><think>t</think><answer>A</answer>"
    tokenizer = TOKENIZERS[1]
    ids = tokenizer.encode(text)
    pieces = [tokenizer.decode([i]) for i in ids]
    middle = text.index("<think>")
    places = [len("".join(pieces[:n])) for n in range(len(pieces) + 1)]
    across = [n for n in range(len(pieces)) if places[n] < middle < places[n + 1]]
    assert across  # the training text merges ">" and "<"
    assert lengths_of(tokenizer, ids) == {"perception": across[0] + 1, "reasoning": len(ids) - across[0] - 1}


def test_characters_split_over_tokens():
    tokenizer = TOKENIZERS[0]
    ids = [tokenizer.convert_tokens_to_ids(token) for token in ("ð", "Ł", "İ", "¥", "A")]  # the bytes of 🎥
    decoded, starts = byte_level_offsets(tokenizer)(ids)
    assert (decoded, starts.tolist()) == ("🎥A", [0, 0, 0, 0, 1])
    decoded, starts = byte_level_offsets(tokenizer)(ids[:2])
    assert (decoded, starts.tolist()) == ("\ufffd", [0, 0])  # cut within the character


@pytest.mark.parametrize("text", ["", "A", RESPONSE[:-4], "<observation>o</observation>", RESPONSE + RESPONSE])
def test_a_malformed_response_is_reasoning_throughout(text):
    assert not parse(text).ok
    ids = [*TOKENIZERS[0].encode(text), END]
    assert lengths_of(TOKENIZERS[0], ids) == {"perception": 0, "reasoning": len(ids)}


def test_a_tokenizer_that_is_not_byte_level_is_refused():
    tokenizer = Tokenizer(models.WordLevel({"left": 0, "right": 1}, unk_token="left"))
    with pytest.raises(SegmentError, match="byte by byte"):
        byte_level_offsets(PreTrainedTokenizerFast(tokenizer_object=tokenizer))([0, 1])


@pytest.mark.parametrize("schema", ["think_answer", "answer"])
def test_a_schema_without_observation_is_reasoning(schema):
    text = "<think>t</think><answer>A</answer>"
    ids = TOKENIZERS[0].encode(text)
    assert lengths_of(TOKENIZERS[0], ids, schema) == {"perception": 0, "reasoning": len(ids)}
