"""Words and orders that others rely on: the configuration, the status page, the turnstile."""

from __future__ import annotations

from gateway.keys.signer import KeySpec, KeyState, Priority, SignerHealth


def test_the_names_of_key_types_stay() -> None:
    assert [spec.value for spec in KeySpec] == [
        "rsa-2048", "rsa-3072", "rsa-4096", "p-256", "p-384", "p-521", "ed25519", "ml-dsa-44", "ml-dsa-65", "ml-dsa-87",
    ]  # fmt: skip


def test_the_names_of_states_stay() -> None:
    assert [state.value for state in KeyState] == ["up", "down", "pin-needed", "pin-blocked", "wrong-token"]


def test_status_answers_go_before_the_line_then_renewals_then_the_rest() -> None:
    assert [priority.name for priority in sorted(set(Priority))] == ["STATUS", "LINE", "RENEWAL", "BULK"]


def test_a_key_that_did_nothing_has_no_figures() -> None:
    health = SignerHealth("software:ca", KeyState.UP)
    assert (health.detail, health.token_serial) == ("", "")
    assert (health.waiting, health.operations, health.p50_ms, health.p95_ms) == (0, 0, 0.0, 0.0)
