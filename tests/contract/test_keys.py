"""API keys open what their scopes say, for as long as they are valid; and nobody is locked out, nor let back in."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import alembic.command
import pytest
import sqlalchemy as sa

from service.core import access
from service.core.access import AdminKey, ensure_admin_key
from service.errors import Conflict, Forbidden, Invalid, NotFound, Unauthorized
from service.registry.engine import Registry, _config, migrate
from service.registry.records import ApiKey
from service.registry.tables import ApiKeyRow

pytestmark = pytest.mark.sql


class Time:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = datetime(2026, 5, 1, 12, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **span: float) -> None:
        self.now += timedelta(**span)


@pytest.fixture
def time() -> Time:
    return Time()


Make = Callable[..., tuple[ApiKey, str]]


@pytest.fixture
def make(registry: Registry, time: Time) -> Make:
    def make(*scopes: str, **more: object) -> tuple[ApiKey, str]:
        return access.create_key(registry, time, scopes=scopes, **more)  # type: ignore[arg-type]

    return make


@pytest.fixture
def opens(registry: Registry, time: Time) -> Callable[..., bool]:
    """Whether a secret is let in."""

    def opens(secret: str, *scopes: str) -> bool:
        try:
            access.check(registry, secret, scopes or ["read"], clock=time)
        except Unauthorized:
            return False
        return True

    return opens


def now_of(registry: Registry, key: ApiKey) -> ApiKey:
    return access.get_key(registry, key.id)


# ------------------------------------------------------------------------------------------------------ what they open


def test_a_key_opens_what_its_scopes_say_until_it_is_revoked(registry: Registry, time: Time, make: Make) -> None:
    key, secret = make("read", "predict", name="app")
    access.check(registry, secret, ["read"], clock=time)
    for presented, reason in ((None, "missing"), ("oubli_wrong", "unknown")):
        with pytest.raises(Unauthorized) as caught:
            access.check(registry, presented, ["read"], clock=time)
        assert caught.value.reason == reason
    with pytest.raises(Forbidden, match="erase"):
        access.check(registry, secret, ["erase"], clock=time)
    revoked = access.revoke_key(registry, time, key.id.upper())
    assert (revoked.id, revoked.revoked_at) == (key.id, time.now)
    with pytest.raises(Unauthorized) as caught:
        access.check(registry, secret, ["read"], clock=time)
    assert caught.value.reason == "unknown"
    time.pass_by(days=1)
    assert access.revoke_key(registry, time, key.id) == revoked  # when it was, it was
    assert [known.name for known in access.list_keys(registry)] == ["app"]


@pytest.mark.parametrize("scopes", [[], ["everything"], ["read", "everything"]])
def test_scopes_that_there_are_not_are_refused(registry: Registry, make: Make, scopes: list[str]) -> None:
    with pytest.raises(Invalid, match="Unknown scopes"):
        make(*scopes)
    assert access.list_keys(registry) == []


@pytest.mark.parametrize("name", ["x" * 129, "a\nb", "\x00", "\udcff"])
def test_names_that_cannot_be_kept_or_shown_are_refused(registry: Registry, make: Make, name: str) -> None:
    with pytest.raises(Invalid, match="name"):
        make("read", name=name)
    assert access.list_keys(registry) == []


def test_a_key_expires(make: Make, time: Time, opens: Callable[..., bool], registry: Registry) -> None:
    _, secret = make("read", expires_at=time.now + timedelta(days=90))
    time.pass_by(days=89, hours=23)
    assert opens(secret)
    time.pass_by(hours=1)
    with pytest.raises(Unauthorized, match="expired") as caught:
        access.check(registry, secret, ["read"], clock=time)
    assert caught.value.reason == "expired"


@pytest.mark.parametrize("away", [timedelta(), timedelta(days=-1), timedelta(days=366 * 7500)])
def test_an_end_that_has_passed_or_never_comes_is_refused(
    registry: Registry, time: Time, make: Make, away: timedelta
) -> None:
    with pytest.raises(Invalid, match="expires_at"):
        make("read", expires_at=time.now + away)
    assert access.list_keys(registry) == []


# ----------------------------------------------------------------------------------------------------------- last used


def test_when_a_key_was_last_used_is_written_seldom_and_never_turned_back(
    registry: Registry, time: Time, make: Make
) -> None:
    (key, _), (other, _) = make("read"), make("read")
    assert access.use_is_news(key, time.now)
    access.note_use(registry, [key.id], now=time.now)
    used = now_of(registry, key)
    assert used.last_used_at == time.now
    assert now_of(registry, other).last_used_at is None
    time.pass_by(seconds=59)
    assert not access.use_is_news(used, time.now)
    time.pass_by(seconds=1)
    assert access.use_is_news(used, time.now)
    access.note_use(registry, [key.id, other.id], now=time.now)
    access.note_use(registry, [key.id], now=time.now - timedelta(hours=1))  # of a replica whose clock is behind
    assert {now_of(registry, each).last_used_at for each in (key, other)} == {time.now}


def test_a_use_that_cannot_be_written_is_no_refusal(registry: Registry, time: Time, make: Make) -> None:
    key, secret = make("read")
    with registry.write() as session:
        session.execute(sa.text("ALTER TABLE api_keys RENAME COLUMN last_used_at TO gone"))
    access.note_use(registry, [key.id], now=time.now)
    with registry.write() as session:
        session.execute(sa.text("ALTER TABLE api_keys RENAME COLUMN gone TO last_used_at"))
    access.check(registry, secret, ["read"], clock=time)


# ----------------------------------------------------------------------------------------------------- ids, beginnings


def test_keys_made_in_a_moment_are_told_apart_by_eight_characters_and_stay_in_order(
    registry: Registry, make: Make
) -> None:
    made = [make("read", name=str(number))[0] for number in range(20)]
    assert len({key.id[:8] for key in made}) == 20
    assert [key.name for key in access.list_keys(registry)] == [key.name for key in made]
    assert all(key.id[14] == "7" for key in made)
    for key in made:
        assert access.get_key(registry, key.id[:8]) == access.get_key(registry, key.id.replace("-", "")) == key


def test_a_beginning_of_several_or_of_none_is_refused_in_words(registry: Registry, time: Time, make: Make) -> None:
    first, second = make("read")[0], make("read")[0]
    twin = f"{first.id[:8]}{second.id[8:]}"
    with registry.write() as session:
        session.execute(sa.update(ApiKeyRow).where(ApiKeyRow.id == second.id).values(id=twin))
    with pytest.raises(Conflict) as caught:
        access.revoke_key(registry, time, first.id[:8])
    assert first.id in caught.value.detail
    assert twin in caught.value.detail
    assert access.get_key(registry, first.id[:20]).id == first.id
    for given in ("ffffffff", first.id[:7], "not an id", "", "--------", "%"):
        with pytest.raises(NotFound):
            access.revoke_key(registry, time, given)
    assert not [key for key in access.list_keys(registry) if key.revoked_at]


def test_a_list_of_keys_is_answered_in_pages(registry: Registry, make: Make) -> None:
    made = [make("read")[0].id for _ in range(5)]
    found, cursor = [], None
    while True:
        page = access.page_of_keys(registry, limit=2, cursor=cursor)
        found += [key.id for key in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert found == made
    with pytest.raises(Invalid, match="cursor"):
        access.page_of_keys(registry, limit=2, cursor="nonsense")


# ------------------------------------------------------------------------------------------------------------ rotation


def test_a_rotated_key_is_valid_beside_its_successor_for_the_overlap(
    registry: Registry, time: Time, make: Make, opens: Callable[..., bool]
) -> None:
    key, secret = make("predict", "read", name="app")
    old, new, successor = access.rotate_key(registry, time, key.id[:8], overlap=timedelta(hours=1))
    assert (new.name, new.scopes, new.expires_at) == ("app", ("predict", "read"), None)
    assert (old.id, old.replaced_by, old.expires_at) == (key.id, new.id, time.now + timedelta(hours=1))
    time.pass_by(minutes=59)
    assert (opens(secret), opens(successor)) == (True, True)
    time.pass_by(minutes=1)
    assert (opens(secret), opens(successor)) == (False, True)


def test_a_rotation_without_overlap_ends_the_old_key_at_once(
    registry: Registry, time: Time, make: Make, opens: Callable[..., bool]
) -> None:
    key, secret = make("read")
    _, _, successor = access.rotate_key(registry, time, key.id, overlap=timedelta())
    assert (opens(secret), opens(successor)) == (False, True)


def test_a_successor_lives_as_long_as_the_old_key_was_given_or_as_is_asked(
    registry: Registry, time: Time, make: Make
) -> None:
    key, _ = make("read", expires_at=time.now + timedelta(days=90))
    time.pass_by(days=89, hours=23)
    old, new, _ = access.rotate_key(registry, time, key.id, overlap=timedelta(days=7))
    assert old.expires_at == key.expires_at  # an overlap makes nothing live longer
    assert new.expires_at == time.now + timedelta(days=90)
    end = time.now + timedelta(days=1)
    assert access.rotate_key(registry, time, new.id, expires_at=end)[1].expires_at == end
    with pytest.raises(Invalid, match="expires_at"):
        access.rotate_key(registry, time, make("read")[0].id, expires_at=time.now)


def test_a_key_that_has_ended_or_been_rotated_is_not_rotated(registry: Registry, time: Time, make: Make) -> None:
    rotated, revoked, expired = (make("read", expires_at=time.now + timedelta(days=2))[0] for _ in range(3))
    access.rotate_key(registry, time, rotated.id)
    access.revoke_key(registry, time, revoked.id)
    for key, words in ((rotated, "rotated already"), (revoked, "ended")):
        with pytest.raises(Conflict, match=words):
            access.rotate_key(registry, time, key.id)
    time.pass_by(days=2)
    with pytest.raises(Conflict, match="ended"):
        access.rotate_key(registry, time, expired.id)
    assert len(access.list_keys(registry)) == 4


# ------------------------------------------------------------------------------------------------------- the admin key


def test_the_last_admin_key_is_kept_where_that_is_asked_for(registry: Registry, time: Time, make: Make) -> None:
    first = make("admin")[0]
    make("admin", expires_at=time.now + timedelta(hours=1))
    make("read")
    time.pass_by(hours=1)
    with pytest.raises(Conflict, match="last valid key"):
        access.revoke_key(registry, time, first.id, keep_an_admin=True)
    second = make("admin")[0]
    access.revoke_key(registry, time, first.id, keep_an_admin=True)
    access.revoke_key(registry, time, first.id, keep_an_admin=True)  # again, to no effect
    access.revoke_key(registry, time, second.id)


def test_an_admin_key_is_left_in_the_folder_for_its_owner_alone(
    registry: Registry, time: Time, tmp_path: Path, opens: Callable[..., bool]
) -> None:
    path = tmp_path / "admin-key"
    made = ensure_admin_key(registry, time, path)
    assert made.secret == path.read_text().strip()
    assert path.stat().st_mode & 0o777 == 0o600
    assert opens(made.secret or "", "erase", "admin")
    assert ensure_admin_key(registry, time, path) == AdminKey()


def test_a_revoked_admin_key_is_replaced_only_while_there_is_no_other(
    registry: Registry, time: Time, make: Make, tmp_path: Path
) -> None:
    path = tmp_path / "admin-key"
    ensure_admin_key(registry, time, path)
    before, (first, *_) = path.read_text(), access.list_keys(registry)
    other, _ = make("admin", expires_at=time.now + timedelta(days=1))
    access.revoke_key(registry, time, first.id)
    assert ensure_admin_key(registry, time, path) == AdminKey(instead=other.id)
    assert path.read_text() == before
    assert len(access.list_keys(registry)) == 2
    time.pass_by(days=1)  # the other one has expired
    made = ensure_admin_key(registry, time, path)
    assert made.secret is not None
    assert path.read_text().strip() == made.secret


def test_a_key_that_the_registry_does_not_know_is_replaced(
    registry: Registry, time: Time, make: Make, tmp_path: Path
) -> None:
    """As after a restore: nobody has meant it to end."""
    make("admin")
    path = tmp_path / "admin-key"
    path.write_text("oubli_of_another_time\n")
    assert ensure_admin_key(registry, time, path).secret == path.read_text().strip()


def test_the_folder_s_admin_key_is_replaced_there_when_it_is_rotated(
    registry: Registry, time: Time, make: Make, tmp_path: Path, opens: Callable[..., bool]
) -> None:
    path = tmp_path / "admin-key"
    ensure_admin_key(registry, time, path)
    before, (key, *_) = path.read_text(), access.list_keys(registry)
    access.rotate_key(registry, time, make("read")[0].id, kept_in=path)
    assert path.read_text() == before
    _, _, successor = access.rotate_key(registry, time, key.id, overlap=timedelta(), kept_in=path)
    assert path.read_text().strip() == successor
    assert path.stat().st_mode & 0o777 == 0o600
    assert opens(successor, "admin")
    access.rotate_key(registry, time, successor_id(registry), kept_in=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def successor_id(registry: Registry) -> str:
    return access.list_keys(registry)[-1].id


# ----------------------------------------------------------------------------------------------------------- migration


def test_keys_of_an_earlier_release_stay_valid_and_one_that_expires_does_not_go_back_as_a_lasting_one(
    empty_database_url: str, tmp_path: Path, time: Time
) -> None:
    (tmp_path / "data").mkdir()
    alembic.command.upgrade(_config(empty_database_url), "0007")
    registry = Registry(empty_database_url)
    old = sa.table("api_keys", *map(sa.column, ("id", "name", "digest", "scopes", "created_at")))
    row = {"id": "0" * 32, "name": "", "digest": access._digest("old"), "scopes": '["read"]'}
    with registry.engine.begin() as connection:
        connection.execute(sa.insert(old).values({**row, "created_at": "2026-01-01 00:00:00.000000"}))
    migrate(empty_database_url)
    key = access.check(registry, "old", ["read"], clock=time)
    assert (key.expires_at, key.last_used_at, key.replaced_by) == (None, None, None)
    access.create_key(registry, time, scopes=["read"], expires_at=time.now + timedelta(days=1))
    alembic.command.downgrade(_config(empty_database_url), "0007")
    with registry.engine.connect() as connection:
        found = connection.execute(sa.text("SELECT revoked_at IS NOT NULL FROM api_keys ORDER BY id")).scalars()
        assert [bool(revoked) for revoked in found] == [False, True]
    registry.close()
