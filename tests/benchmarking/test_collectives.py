"""Bytes read from compiled programs whose exchanges are known."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rcmstr_jax.benchmarking.collectives import Collective, collectives_in


def compiled_text(function, *shapes) -> str:
    """HLO of a function over the axis "i" of four devices."""
    arguments = [jax.ShapeDtypeStruct((4, *shape), jnp.float32) for shape in shapes]
    return jax.pmap(function, axis_name="i").lower(*arguments).compile().as_text()


def test_every_kind_of_a_known_program():
    def program(x, y):
        return (
            jax.lax.psum(x, "i"),
            jax.lax.all_gather(y, "i", tiled=True),
            jax.lax.psum_scatter(y, "i", tiled=True),
            jax.lax.ppermute(x, "i", [(0, 1), (1, 2), (2, 3), (3, 0)]),
            jax.lax.all_to_all(y, "i", 0, 0, tiled=True),
        )

    found = {c.kind: c for c in collectives_in(compiled_text(program, (5, 3), (8,)), 4)}
    sizes = {kind: collective.size for kind, collective in found.items()}
    assert sizes == {
        "all-reduce": 5 * 3 * 4,
        "all-gather": 4 * 8 * 4,
        "reduce-scatter": 8 * 4,
        "collective-permute": 5 * 3 * 4,
        "all-to-all": 8 * 4,
    }
    assert {c.group for kind, c in found.items() if kind != "collective-permute"} == {4}
    # A ring of four: reducing and handing around three quarters each; gathering three quarters.
    assert found["all-reduce"].sent == 60 * 1.5
    assert found["all-gather"].sent == 128 * 0.75
    assert found["collective-permute"].sent == 60


def test_a_program_without_exchanges():
    assert collectives_in(compiled_text(lambda x: x + 1, (3,)), 4) == []


def test_an_exchange_in_a_loop_is_refused():
    def program(x):
        return jax.lax.fori_loop(0, x[0].astype(int), lambda _, v: jax.lax.psum(v, "i"), x)

    with pytest.raises(ValueError, match="inside a loop cannot be counted: .*all-reduce"):
        collectives_in(compiled_text(program, (3,)), 4)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (
            "  %ar = (bf16[2,3]{1,0:T(8,128)(2,1)}, f32[]) all-reduce(%a, %b), channel_id=1, "
            "replica_groups=[2,4]<=[8], use_global_device_ids=true, to_apply=%add",
            Collective("all-reduce", ("bf16[2,3]", "f32[]"), 16, 4),
        ),
        (
            "  %ag = (f32[2,3]{1,0}, f32[8,3]{1,0}) all-gather-start(%a), dimensions={0}, "
            "replica_groups={{0,1,2,3},{4,5,6,7}}",
            Collective("all-gather", ("f32[8,3]",), 96, 4),
        ),
        (
            "  ROOT %cp = (u8[7]{0}, u8[7]{0}, u32[], u32[]) collective-permute-start(u8[7]{0} %a)"
            ", source_target_pairs={{0,1},{1,0}}",
            Collective("collective-permute", ("u8[7]",), 7, 8),
        ),
        ("  %ag.done = f32[8,3]{1,0} all-gather-done(%ag)", None),
        ("  %f = f32[8] fusion(%all-reduce.1), kind=kLoop, calls=%c", None),
    ],
)
def test_forms_of_other_backends(line, expected):
    assert collectives_in(line, 8) == ([expected] if expected else [])


def test_an_exchange_that_is_woven_into_several_computations_counts_once():
    """As the TPU compiler hides them behind other work: parts of one chain."""
    line = (
        "  %g.{} = bf16[8,4]{{1,0:T(8,128)}} all-gather(%x), channel_id=1, "
        'replica_groups={{{{0,1}}}}, frontend_attributes={{chain_id="{}"}}'
    )
    text = "\n".join(line.format(i, chain) for i, chain in enumerate((0, 0, 1, 0)))
    assert collectives_in(text, 2) == [Collective("all-gather", ("bf16[8,4]",), 64, 2)] * 2
