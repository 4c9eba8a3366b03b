"""Bytes that operations move: of a program written by hand, and of one that XLA made."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from rcmstr_jax.benchmarking.collectives import collectives_in
from rcmstr_jax.benchmarking.program import array_bytes, operations_in, runs_of_computations

# A loop of five turns, whose condition alone says so, takes a row of `table`, adds it to what is
# carried and writes the sum into `table` in place.
LOOP = """HloModule hand

%take (table: f32[5,256], turn: s32[], carried: f32[1,256]) -> f32[1,256] {
  %table = f32[5,256]{1,0} parameter(0)
  %turn = s32[] parameter(1)
  %zero = s32[] constant(0)
  %row = f32[1,256]{1,0} dynamic-slice(%table, %turn, %zero), dynamic_slice_sizes={1,256}
  %carried = f32[1,256]{1,0} parameter(2)
  ROOT %sum.1 = f32[1,256]{1,0} add(%row, %carried)
}

%put (table.1: f32[5,256], row.1: f32[1,256], turn.1: s32[]) -> f32[5,256] {
  %table.1 = f32[5,256]{1,0} parameter(0)
  %row.1 = f32[1,256]{1,0} parameter(1)
  %turn.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %put.1 = f32[5,256]{1,0} dynamic-update-slice(%table.1, %row.1, %turn.1, %zero.1)
}

%body (all: (s32[], f32[5,256], f32[1,256])) -> (s32[], f32[5,256], f32[1,256]) {
  %all = (s32[], f32[5,256]{1,0}, /*index=2*/f32[1,256]{1,0}) parameter(0)
  %i = s32[] get-tuple-element(%all), index=0
  %t = f32[5,256]{1,0} get-tuple-element(%all), index=1
  %c = f32[1,256]{1,0} get-tuple-element(%all), index=2
  %taken = f32[1,256]{1,0} fusion(%t, %i, %c), calls=%take, metadata={op_name="jit(f)/add"}
  %written = f32[5,256]{1,0} fusion(%t, %taken, %i), kind=kLoop, calls=%put
  %gathered = f32[1,256]{1,0} all-reduce(%taken), replica_groups={{0,1}}, to_apply=%take
  ROOT %next = (s32[], f32[5,256]{1,0}, f32[1,256]{1,0}) tuple(%i, %written, %gathered)
}

%condition (all.1: (s32[], f32[5,256], f32[1,256])) -> pred[] {
  %all.1 = (s32[], f32[5,256]{1,0}, f32[1,256]{1,0}) parameter(0)
  %i.1 = s32[] get-tuple-element(%all.1), index=0
  %five = s32[] constant(5)
  ROOT %less = pred[] compare(%i.1, %five), direction=LT
}

ENTRY %main (start: (s32[], f32[5,256], f32[1,256])) -> f32[5,256] {
  %start = (s32[], f32[5,256]{1,0}, f32[1,256]{1,0}) parameter(0)
  %loop = (s32[], f32[5,256]{1,0}, f32[1,256]{1,0}) while(%start), condition=%condition, body=%body
  ROOT %table.2 = f32[5,256]{1,0} get-tuple-element(%loop), index=1
}
"""
ROW = 4 * 256


def test_a_loop_counts_as_often_as_it_runs_and_slices_what_they_take() -> None:
    assert runs_of_computations(LOOP) == {"main": 1, "body": 5, "condition": 5}
    moved = {operation.name: operation for operation in operations_in(LOOP)}
    # A row and the carried one are read and a row is written; a place in the table is a number.
    assert moved["taken"].bytes == 3 * ROW + 4
    assert moved["taken"].moved == 5 * moved["taken"].bytes
    assert moved["taken"].source == "jit(f)/add"
    # In place: the new row is read and written, the rest of the table is not touched.
    assert moved["written"].bytes == 2 * ROW + 4
    assert {"loop", "next", "t"}.isdisjoint(moved)


def test_exchanges_in_a_loop_are_found_as_often_as_it_runs() -> None:
    with pytest.raises(ValueError, match="inside a loop"):
        collectives_in(LOOP, 2)
    assert len(collectives_in(LOOP, 2, runs_of_computations(LOOP))) == 5


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("f32[3,100]{1,0}", 4 * 300),
        ("f32[3,100]{1,0:T(8,128)}", 4 * 8 * 128),
        ("bf16[3,100]{0,1:T(8,128)(2,1)}", 2 * 104 * 128),
        ("f32[3,100]{1,0:T(8,128)S(1)}", 0),
        ("(f32[8]{0}, u32[]{:S(2)}, pred[8]{0})", 40),
    ],
)
def test_arrays_count_with_their_tiles_and_where_they_lie(text: str, size: int) -> None:
    assert array_bytes(text) == size


def test_a_slice_brought_onto_the_chip_counts_once_and_reserved_memory_not_at_all() -> None:
    hlo = """ENTRY %main (x: f32[32,256]) -> f32[8,256] {
  %x = f32[32,256]{1,0} parameter(0)
  %space = f32[64,256]{1,0} custom-call(), custom_call_target="AllocateBuffer"
  %begun = ((f32[32,256]{1,0}), f32[8,256]{1,0:S(1)}, s32[]{:S(2)}) slice-start(%x), slice={}
  ROOT %done = f32[8,256]{1,0:S(1)} slice-done(%begun)
}
"""
    assert [(o.name, o.bytes) for o in operations_in(hlo)] == [("begun", 8 * ROW)]


def test_bytes_of_a_real_program_are_those_of_its_arrays() -> None:
    rows = jax.ShapeDtypeStruct((64, 128), jnp.float32)

    def products(x: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda y, _: (jnp.sin(y) @ x.T @ x, None), x, length=7)[0]

    program = jax.jit(products).lower(rows).compile()
    loops = [o for o in operations_in(program.as_text()) if o.times == 7]
    array, square = 4 * 64 * 128, 4 * 64 * 64
    # The sine and two products read and write eight arrays; a compiler may copy one besides.
    assert 7 * (5 * array + 2 * square) <= sum(o.moved for o in loops) <= 7 * 10 * array
