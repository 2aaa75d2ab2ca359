"""From the configuration to the options of the parts: what names something that is not there is refused at the start."""

from __future__ import annotations

import ssl
from dataclasses import fields
from pathlib import Path

import pytest

from gateway import settings
from gateway.authority.makers import Maker
from gateway.authority.policy import LENIENCY_SWITCHES
from gateway.authority.policy_tables import RULE_KEYS
from gateway.config import Config, config_from_table
from gateway.errors import ConfigError
from gateway.pki.profiles import Profile
from tests.support.authority import TestCa

ACME = TestCa.make("Acme")
HANDBOOK = Path(__file__).resolve().parents[1] / "docs" / "OPERATIONS.md"


def config(**table: object) -> Config:
    return config_from_table(table, Path("/somewhere"))


def test_the_handbook_explains_every_key_of_a_profile_and_every_switch() -> None:
    text = HANDBOOK.read_text(encoding="utf-8")
    keys = (
        {item.name for item in fields(Profile) if item.init and item.name != "name"} | RULE_KEYS | {"base"} | LENIENCY_SWITCHES
    )
    assert [key for key in sorted(keys) if f"`{key}`" not in text] == []


def test_the_gateways_own_profile_cannot_be_asked_for_or_replaced() -> None:
    rule = settings.policy(config(tls={"validity_hours": 24})).rule(settings.TLS_PROFILE)
    assert rule.requesters == frozenset()
    assert rule.profile.validity == 24 * 3600
    with pytest.raises(ConfigError, match="gateway's own"):
        settings.policy(config(profile={settings.TLS_PROFILE: {}}))


def test_the_policys_digest_changes_with_its_content(tmp_path: Path) -> None:
    plain = settings.policy(config())
    changed = settings.policy(config(profile={"ldevid": {"quota": 5}}))
    assert plain.digest == settings.policy(config()).digest != changed.digest


def test_an_allow_list_file_is_found_beside_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("SN-1\n", encoding="utf-8")
    table = {"profile": {"ldevid": {"allow": {"files": {"serialNumber": "list.txt"}}}}}
    assert settings.policy(config_from_table(table, tmp_path)).rule("ldevid").allow
    with pytest.raises(ConfigError, match=r"allow-list .*list\.txt cannot be read"):
        settings.policy(config_from_table(table, tmp_path / "elsewhere"))


@pytest.mark.parametrize(
    ("est", "said"),
    [
        ({"profile": "ldevit"}, "est.profile: there is no profile 'ldevit'; did you mean ldevid?"),
        ({"labels": {"web": "tls-sever"}}, "est.labels.web: there is no profile 'tls-sever'; did you mean tls-server?"),
    ],
)
def test_a_label_without_a_profile_is_refused(est: dict[str, object], said: str) -> None:
    wrong = config(est=est)
    with pytest.raises(ConfigError) as caught:
        settings.est_options(wrong, settings.policy(wrong))
    assert said in str(caught.value)


def test_a_makers_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigError, match=r"none\.pem cannot be read"):
        settings.makers(config(est={"makers": ["none.pem"]}))


def test_a_makers_table_says_which_lists_and_rules_are_his(tmp_path: Path) -> None:
    path = tmp_path / "acme.pem"
    path.write_text(ssl.DER_cert_to_PEM_cert(ACME.der) * 2)
    table: dict[str, object] = {"certificates": [str(path)], "crls": ["acme.crl"], "require_crl": True, "accept_expired": True}
    found = settings.makers(config(maker={"acme": table}, est={"makers": [str(path)]}))
    assert found == (
        Maker("acme", (ACME.der, ACME.der), (Path("/somewhere/acme.crl"),), require_crl=True, accept_expired=True),
        Maker("", (ACME.der, ACME.der)),
    )


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({}, "maker.acme.certificates names no file"),
        ({"certificates": ["none.pem"]}, "maker.acme: /somewhere/none.pem cannot be read"),
        ({"certificates": ["none.pem"], "require_crl": True}, "maker.acme.require_crl: without maker.acme.crls"),
        ({"certificate": ["a.pem"]}, "unknown key maker.acme.certificate; did you mean maker.acme.certificates?"),
        ({"certificates": "a.pem"}, "maker.acme.certificates must be a list"),
    ],
)
def test_a_makers_table_that_cannot_be_meant_is_refused(table: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings.makers(config(maker={"acme": table}))
    assert said in str(caught.value)


def test_the_file_of_blocked_keys_is_handed_on() -> None:
    options = settings.authority_options(config(policy={"blocked_keys": "blocked.txt"}), "")
    assert options.blocked_keys == Path("/somewhere/blocked.txt")


def test_an_unknown_clock_rule_is_refused() -> None:
    with pytest.raises(ConfigError, match="mark' or 'stop"):
        settings.policy(config(policy={"clock_doubt": "hope"}))


@pytest.mark.parametrize(
    ("table", "port", "expected"),
    [
        ({"gateway": {"base_url": "http://pki.plant/"}}, 0, "http://pki.plant"),
        ({"tls": {"names": ["gw.plant"]}}, 0, "http://gw.plant:8080"),
        ({"tls": {"names": ["gw.plant"]}}, 49152, "http://gw.plant:49152"),
        ({"tls": {"names": ["2001:db8::1"]}}, 0, "http://[2001:db8::1]:8080"),
        ({"listen": {"http": {"enabled": False}}}, 0, ""),
        ({"listen": {"http": {"port": 0}}}, 0, ""),
    ],
)
def test_the_address_in_certificates(table: dict[str, object], port: int, expected: str) -> None:
    assert settings.base_url(config(**table), port) == expected


def test_the_tls_certificate_carries_names_and_addresses() -> None:
    spec = settings.tls_spec(config(tls={"names": ["gw.plant", "192.0.2.7"]}))
    assert [str(each.value) for each in spec.san] == ["gw.plant", "192.0.2.7"]


@pytest.mark.parametrize("name", ["", "gw plant", "münchen.plant", "a..b", "-gw", "x" * 64, "gw.plant:8443"])
def test_a_mistyped_tls_name_is_refused_in_words(name: str) -> None:
    with pytest.raises(ConfigError, match="neither an IP address nor a DNS name"):
        settings.tls_spec(config(tls={"names": [name]}))


@pytest.mark.parametrize("label", ["cacerts", "two words", "a/b", "-x", "é"])
def test_a_label_that_no_address_can_name_is_refused(label: str) -> None:
    configuration = config(est={"labels": {label: "ldevid"}})
    with pytest.raises(ConfigError, match="no address can name it"):
        settings.est_options(configuration, settings.policy(configuration))


def test_the_policys_digest_changes_with_whose_devices_may_ask_and_with_the_labels(tmp_path: Path) -> None:
    """Whoever adds a maker lets strange devices in: that stands in the journal as another policy."""
    makers = []
    for number in range(2):
        path = tmp_path / f"maker-{number}.pem"
        path.write_text(ssl.DER_cert_to_PEM_cert(TestCa.make(f"Maker {number}").der))
        makers.append(str(path))
    sections: list[dict[str, object]] = [
        {}, {"makers": makers[:1]}, {"makers": makers}, {"profile": "tls-client"}, {"labels": {"web": "tls-server"}},
    ]  # fmt: skip
    assert len({settings.policy(config(est=section)).digest for section in sections}) == len(sections)
    rules: list[dict[str, object]] = [{}, {"require_crl": True, "crls": ["a.crl"]}, {"accept_expired": True}]
    tables = [{"acme": {"certificates": makers, **rule}} for rule in rules]
    assert len({settings.policy(config(maker=table)).digest for table in tables}) == len(tables)
    one, other = ({"makers": makers}, {"makers": makers[::-1]})
    assert settings.policy(config(est=one)).digest == settings.policy(config(est=other)).digest


def test_an_anchor_is_a_file_or_a_token_and_a_token_is_written_less_often() -> None:
    file, token = config(journal={"anchor": "a"}), config(journal={"anchor": "pkcs11:token=plant7"})
    assert settings.anchor_uri(file) is None
    assert settings.journal_options(file).anchor == Path("/somewhere/a")
    uri = settings.anchor_uri(token)
    assert uri is not None
    assert uri.token == "plant7"
    assert settings.journal_options(token).anchor is None
    intervals = [settings.journal_options(each).anchor_interval_s for each in (file, token)]
    assert intervals == [0.5, 60.0]
    slow = config(journal={"anchor": "pkcs11:token=plant7", "anchor_interval": 600})
    assert settings.journal_options(slow).anchor_interval_s == 600


@pytest.mark.parametrize(("anchor", "said"), [("pkcs11:object=x", "names no token"), ("pkcs11:tokn=x", "journal.anchor: ")])
def test_an_anchor_that_names_no_token_is_refused(anchor: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        settings.anchor_uri(config(journal={"anchor": anchor}))
