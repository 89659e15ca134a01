"""Collectives counted in programs written out by hand."""

from jaxkd.aot.hlo import Sent, collectives

PROGRAM = """HloModule jit_call

%add (x: f32[], y: f32[]) -> f32[] {
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %sum = f32[] add(%x, %y)
}

%members_cond (p: (s32[], f32[4])) -> pred[] {
  %p = (s32[], f32[4]) parameter(0)
  %limit = s32[]{:T(128)} constant(12)
  %i = s32[] get-tuple-element(%p), index=0
  ROOT %less = pred[] compare(%i, %limit), direction=LT
}

%members_body (p.1: (s32[], f32[4])) -> (s32[], f32[4]) {
  %p.1 = (s32[], f32[4]) parameter(0)
  %g = f32[4]{0} get-tuple-element(%p.1), index=1
  %r = f32[4]{0} all-reduce(%g), replica_groups={{0,1}}, to_apply=%add
  %both = (bf16[2,3]{1,0}, f32[5]{0}) all-reduce(%g, %g), to_apply=%add
  ROOT %t = (s32[], f32[4]) tuple(%g, %r)
}

%steps_cond (q: (s32[], s32[])) -> pred[] {
  %q = (s32[], s32[]) parameter(0)
  %n = s32[] get-tuple-element(%q), index=1
  ROOT %less.1 = pred[] compare(%n, %n), direction=LT
}

%steps_body (q.1: (s32[], s32[])) -> (s32[], s32[]) {
  %q.1 = (s32[], s32[]) parameter(0)
  %w = (s32[], f32[4]) while(%q.1), condition=%members_cond, body=%members_body
  %k = (s32[]) while(%q.1), condition=%steps_cond, body=%known, backend_config={"known_trip_count":{"n":"3"}}
  ROOT %u = (s32[], s32[]) tuple(%q.1, %q.1)
}

%known (z: f32[8]) -> f32[8] {
  %z = f32[8]{0} parameter(0)
  ROOT %ag = (f32[8]{0}, f32[16]{0}) all-gather-start(%z), dimensions={0}
}

%unused (z.1: f32[8]) -> f32[8] {
  ROOT %cp = pred[8]{0} collective-permute(%z.1)
}

ENTRY %main (a: s32[]) -> s32[] {
  %a = s32[] parameter(0)
  %b = (s32[], s32[]) while(%a), condition=%steps_cond, body=%steps_body
  ROOT %c = s32[] copy(%a)
}
"""  # noqa: E501


def test_collectives_count_as_often_as_the_loops_around_them_turn():
    assert collectives(PROGRAM) == {
        "all-reduce": Sent(24, 12 * (16 + 12 + 20)),
        "all-gather": Sent(3, 3 * 64),
    }


def test_a_program_for_one_device_sends_nothing():
    alone = PROGRAM.replace("all-reduce", "negate").replace("all-gather-start", "copy")
    assert collectives(alone) == {}
