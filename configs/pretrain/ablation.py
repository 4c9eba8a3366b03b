r"""The ablation ladder of the published ancestor, with the masked term on top (method section 4).

Command (one rung, by our recipe; and as the ancestor ran it, with the rectifier that it took):

  python launch/pretrain.py --config=configs/pretrain/ablation.py:hierarchy --workdir=runs/hierarchy
  python launch/pretrain.py --config=configs/pretrain/ablation.py:hierarchy,recipe=ancestor \
    --workdir=runs/ancestor --config.model.rectifier_from=runs/tps \
    --config.data.source=lmdb:/data/MJSynth --config.data.source=lmdb:/data/SynthText

Variants, each the one before plus one thing: `seqmoco_no_relation` (sub-words only), `seqmoco`
(+ relations), `rearrange`, `hierarchy` (+ frames and words), `inter` (+ relations between
hierarchies), `mim` (+ masked image modelling, the whole method), `full` (the same).
Options follow after commas: `full,mask=patch` (or block, patch_block), `full,ratio=0.6` (or 0.8,
0.7: share that is hidden, `mask=block` as well), `full,target=momentum` (features, not the paper's
pixels), `full,coupled`, `full,form=dense` (or packed, masked_dense),
`full,permutation=shared`, `full,kl=mean`, `full,norm=local` (or sync, shuffle), `full,encoder=vit`
(ViT tiny), `full,encoder=mini` (the world of mini.py), `full,encoder=compact` (compact.py:mini),
`inter,recipe=ancestor` (method section 7).

What `recipe=ours` has otherwise than the ancestor, over the same 27.5 M images:
  batch of 256 at 0.012, not of 32 at 0.0015: the same rate per image, in an eighth of the steps;
  cosine to zero, not constant: the ancestor's milestones lie beyond its end;
  relation term summed over the queue, not averaged: so its gradient has the contrast's size;
  a permutation per group, not per batch: more neighbourhoods in a step.
The moving average reaches over as many images in both: 0.999 at a batch of 32.

Cost: `recipe=ours` that of `rcmstr_cnn.py` per rung, `recipe=ancestor` 859,375 steps of 32 images,
both predicted in docs/recipes.md; with `encoder=mini` that of `mini.py`.

Expected of `recipe=ancestor` (published; `:published` of frozen_ctc.py / frozen_attention.py after
5.5 M words, mean word accuracy of seven sets in %): seqmoco_no_relation 32.2 / 41.3, seqmoco 33.6 /
43.1, rearrange 40.0 / 48.2, hierarchy 43.1 / 50.9, inter 46.0 / 53.3. Not yet run here.

Expected of `recipe=ours`: not yet measured at full size; small runs are in docs/results/.
"""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import common, compact, mini, rcmstr_cnn, rcmstr_vit

LADDER = ("seqmoco_no_relation", "seqmoco", "rearrange", "hierarchy", "inter", "mim")
BASES: dict[str, Callable[[], ConfigDict]] = {
    "cnn": rcmstr_cnn.get_config,
    "vit": lambda: rcmstr_vit.get_config("tiny"),
    "mini": mini.get_config,
    "compact": lambda: compact.get_config("mini"),
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "encoder": tuple(BASES),
    "mask": ("patch_block", "patch", "block"),
    "coupled": ("true", "false"),
    "form": ("masked_dense", "packed", "dense"),
    "permutation": ("group", "shared"),
    "kl": ("batchmean", "mean"),
    "norm": ("shuffle", "sync", "local"),
    "ratio": ("0.7", "0.6", "0.8"),
    "target": ("pixels", "momentum"),
    "recipe": ("ours", "ancestor"),
}


def use_ancestor(config: ConfigDict) -> ConfigDict:
    """The ancestor's own run (method section 7), in place; sizes and data stay."""
    config.batch_size = 32
    config.momentum.value = 0.999
    config.momentum.reference_batch = 32
    config.contrast.kl_reduction = "mean"
    config.rearrange.shared_permutation = True
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.0015
    config.optimizer.reference_batch = 32
    config.optimizer.schedule = "constant"
    config.optimizer.warmup_images = 0
    config.optimizer.momentum = 0.9
    config.optimizer.weight_decay = 1e-4
    config.optimizer.decay_vectors = True
    config.optimizer.clip = 0.0
    return config


def get_config(variant: str | None = None) -> ConfigDict:
    """Builds one rung; see the file's docstring for rungs and options."""
    name, *given = (variant or "full").split(",")
    name = common.pick_variant(name, (*LADDER, "full"), "full")
    chosen: dict[str, str] = {}
    for option in given:
        key, _, value = option.partition("=")
        common.pick_variant(key, tuple(OPTIONS), key)
        chosen[key] = common.pick_variant(value, OPTIONS[key], OPTIONS[key][0])
    config = BASES[chosen.get("encoder", "cnn")]()
    rung = LADDER.index("mim" if name == "full" else name)
    if chosen.get("recipe") == "ancestor":
        if rung == LADDER.index("mim") or not config.model.encoder == "cnn":
            raise ValueError(
                f"config variant {variant!r}: the ancestor had neither masked images nor a ViT: "
                f"take a rung of {', '.join(LADDER[:-1])} and no encoder=vit, or recipe=ours"
            )
        use_ancestor(config)

    config.contrast.relation = rung >= 1
    config.rearrange.enabled = rung >= 2
    config.contrast.hierarchies = ("frame", "subword", "word") if rung >= 3 else ("subword",)
    config.contrast.pairs = ("frame_subword", "subword_word") if rung >= 4 else ()
    config.mim.enabled = rung >= 5

    config.mim.kind = chosen.get("mask", config.mim.kind)
    config.mim.form = chosen.get("form", config.mim.form)
    config.mim.coupled = chosen.get("coupled", "false") == "true"
    config.mim.target = chosen.get("target", config.mim.target)
    config.mim.mask_ratio = float(chosen.get("ratio", config.mim.mask_ratio))
    if "ratio" in chosen and config.mim.kind == "block":  # which hides by the block alone
        config.mim.block_ratio = config.mim.mask_ratio
    if "permutation" in chosen:
        config.rearrange.shared_permutation = chosen["permutation"] == "shared"
    config.contrast.kl_reduction = chosen.get("kl", config.contrast.kl_reduction)
    config.key_norm = chosen.get("norm", config.key_norm)
    return config
