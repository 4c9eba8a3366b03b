"""Name tables of the parts that checkpoints are made of."""

from __future__ import annotations

from rcmstr_jax.interop.rules import Rule, conv, linear, norm, under

# 29-layer ResNet, below FeatureExtraction.ConvNet.
RESNET = [
    *conv("conv(?P<n>[0-9_]+)", "conv{n}"),
    *norm("bn(?P<n>[0-9_]+)", "bn{n}"),
    *under(
        "layer(?P<stage>[0-9]+)_(?P<block>[0-9]+)/",
        "layer{stage}.{block}.",
        [
            *conv("conv(?P<n>[0-9])", "conv{n}"),
            *norm("bn(?P<n>[0-9])", "bn{n}"),
            *conv("downsample_conv", "downsample.0"),
            *norm("downsample_bn", "downsample.1"),
        ],
    ),
]

_LSTM_WEIGHTS = {"weight_ih": "linear", "weight_hh": "linear", "bias_ih": "same", "bias_hh": "same"}
BILSTM = [
    *(
        Rule(f"{direction}_{weight}", f"rnn.{weight}_l0{suffix}", layout)
        for direction, suffix in (("forward", ""), ("backward", "_reverse"))
        for weight, layout in _LSTM_WEIGHTS.items()
    ),
    *linear("linear", "linear"),
]
# Stacked BiLSTMs, below SequenceModeling.
BILSTM_STACK = under("layer_(?P<layer>[0-9]+)/", "{layer}.", BILSTM)

PREDICTORS = linear("(?P<hierarchy>frame|subword|word)", "{hierarchy}_fc")

# Rectifier, below Transformation. Convolution, norm, ReLU and pooling share one counter there.
TPS = [
    *(rule for i in range(8) for rule in conv(f"conv{i}", f"LocalizationNetwork.conv.{4 * i}")),
    *(rule for i in range(8) for rule in norm(f"bn{i}", f"LocalizationNetwork.conv.{4 * i + 1}")),
    *linear("fc1", "LocalizationNetwork.localization_fc1.0"),
    *linear("fc2", "LocalizationNetwork.localization_fc2"),
]

VIT = [
    Rule("mask_token", "mask_token", "token"),
    Rule("patch_embed/kernel", "patch_embed.proj.weight", "patches"),
    Rule("patch_embed/bias", "patch_embed.proj.bias"),
    *under(
        "block_(?P<block>[0-9]+)/",
        "blocks.{block}.",
        [
            *norm("norm(?P<n>[12])", "norm{n}"),
            Rule("attn/qkv", "attn.qkv.weight", "linear"),
            Rule("attn/(?P<part>[qv])_bias", "attn.{part}_bias"),
            *linear("attn/proj", "attn.proj"),
            *linear("fc(?P<n>[12])", "mlp.fc{n}"),
        ],
    ),
    *norm("norm", "norm"),
]

# Reconstruction head of the ViT, below pix_decoder.
PIXEL_DECODER = [
    *linear("linear_0", "0", bias=False),
    *linear("linear_1", "1", bias=False),
    *norm("norm", "2"),
    *linear("linear_2", "4"),
]

# Attention LSTM, below Prediction. or selective_decoder.second_attention.
READER = [
    *linear("feature_query", "attention_cell.i2h"),
    Rule("state_query_kernel", "attention_cell.h2h.weight", "linear"),
    Rule("state_query_bias", "attention_cell.h2h.bias"),
    Rule("score", "attention_cell.score.weight", "row"),
    *(Rule(weight, f"attention_cell.rnn.{weight}", lay) for weight, lay in _LSTM_WEIGHTS.items()),
    Rule("generator_kernel", "generator.weight", "linear"),
    Rule("generator_bias", "generator.bias"),
]
ATTENTION_DECODER = [
    *under("context_(?P<layer>[0-9]+)/", "sequence_modeling.{layer}.", BILSTM),
    *linear("gate", "selective_decoder.first_attention"),
    *under("reader/", "selective_decoder.second_attention.", READER),
]
# The published CTC decoder is one sequence: BiLSTM, BiLSTM, linear map.
CTC_DECODER = [*under("context/", "", BILSTM_STACK), *linear("generator", "2")]

# Encoder, projector and heads of a contrastive branch.
BRANCH = [
    *under("encoder/", "FeatureExtraction.ConvNet.", RESNET),
    *under("projector/", "SequenceModeling.", BILSTM_STACK),
    *under("predictors/", "", PREDICTORS),
]
RECTIFIER = under("rectifier/", "Transformation.", TPS)
