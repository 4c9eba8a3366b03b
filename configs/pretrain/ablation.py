r"""The ablation ladder of the published ancestor, with the masked term on top (method section 4).

Command (one rung):

  python launch/pretrain.py --config=configs/pretrain/ablation.py:hierarchy --workdir=runs/hierarchy

Variants, each the one before plus one thing: `seqmoco_no_relation` (sub-words only), `seqmoco`
(+ relations), `rearrange`, `hierarchy` (+ frames and words), `inter` (+ relations between
hierarchies), `mim` (+ masked image modelling, the whole method), `full` (the same).
Options follow after commas: `full,mask=patch` (or block, patch_block), `full,coupled`,
`full,form=dense` (or packed, masked_dense), `full,permutation=shared`, `full,kl=mean`,
`full,norm=local` (or sync, shuffle), `full,encoder=vit` (ViT tiny), `full,encoder=mini` (the world
of mini.py).

Cost: that of `rcmstr_cnn.py` per rung; with `encoder=mini` that of `mini.py`.

Expected (frozen CTC and attention probe of the ancestor at full size, 5.5 M words, mean word
accuracy in %): seqmoco_no_relation 32.2 / 41.3, seqmoco 33.6 / 43.1, rearrange 40.0 / 48.2,
hierarchy 43.1 / 50.9, inter 46.0 / 53.3. Rungs measured here are in docs/results/.
"""

from __future__ import annotations

from collections.abc import Callable

from ml_collections import ConfigDict

from rcmstr_jax.configs.pretrain import common, mini, rcmstr_cnn, rcmstr_vit

LADDER = ("seqmoco_no_relation", "seqmoco", "rearrange", "hierarchy", "inter", "mim")
BASES: dict[str, Callable[[], ConfigDict]] = {
    "cnn": rcmstr_cnn.get_config,
    "vit": lambda: rcmstr_vit.get_config("tiny"),
    "mini": mini.get_config,
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "encoder": tuple(BASES),
    "mask": ("patch_block", "patch", "block"),
    "coupled": ("true", "false"),
    "form": ("masked_dense", "packed", "dense"),
    "permutation": ("group", "shared"),
    "kl": ("batchmean", "mean"),
    "norm": ("shuffle", "sync", "local"),
}


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
    config.contrast.relation = rung >= 1
    config.rearrange.enabled = rung >= 2
    config.contrast.hierarchies = ("frame", "subword", "word") if rung >= 3 else ("subword",)
    config.contrast.pairs = ("frame_subword", "subword_word") if rung >= 4 else ()
    config.mim.enabled = rung >= 5

    config.mim.kind = chosen.get("mask", config.mim.kind)
    config.mim.form = chosen.get("form", config.mim.form)
    config.mim.coupled = chosen.get("coupled", "false") == "true"
    config.rearrange.shared_permutation = chosen.get("permutation", "group") == "shared"
    config.contrast.kl_reduction = chosen.get("kl", config.contrast.kl_reduction)
    config.key_norm = chosen.get("norm", config.key_norm)
    return config
