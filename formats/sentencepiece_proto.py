"""The numbers of a sentencepiece model's fields, for those who read one and those who write one.

Source: sentencepiece_model.proto of https://github.com/google/sentencepiece, and
https://protobuf.dev/programming-guides/encoding/ for the wire types.
"""

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5  # wire types

PIECES, TRAINER, NORMALIZER = 1, 2, 3  # of ModelProto
PIECE_TEXT, PIECE_SCORE, PIECE_TYPE = 1, 2, 3  # of SentencePiece
MODEL_TYPE, BYTE_FALLBACK, UNK_ID, BOS_ID, EOS_ID = 3, 35, 40, 41, 42  # of TrainerSpec
NAME, CHARSMAP, ADD_DUMMY_PREFIX = 1, 2, 3  # of NormalizerSpec
REMOVE_EXTRA_WHITESPACES, ESCAPE_WHITESPACES = 4, 5

UNIGRAM, BPE = 1, 2  # TrainerSpec.ModelType; unigram is the default
