"""That secrets stay secrets: who may read what lies in the data folder, which keys open, who is listened to."""

from tests.safeguards.mutant import mutant

_ACCESS = "service/core/access.py"
_CHILDREN = "service/cli/children.py"

# fmt: off
KEEPING = [
    mutant("key-expires", "a key that has expired opens nothing", _ACCESS,
            "    if key.has_expired(now):\n", "    if False:\n",
            "contract/test_keys.py::test_a_key_expires[sqlite]"),
    mutant("admin-meant", "a revoked admin key is not made again while another one is valid", _ACCESS,
            "    if key is not None and other is not None:\n", "    if False:\n",
            "contract/test_keys.py::test_a_revoked_admin_key_is_replaced_only_while_there_is_no_other[sqlite]"),
    mutant("admin-last", "the last admin key is not revoked over HTTP", "service/api/routes/keys.py",
            ", keep_an_admin=True", "",
            "integration/test_keys.py::test_the_last_admin_key_is_not_revoked_by_http"),
    mutant("api-private", "an API by itself closes an open data folder", "service/cli/roles.py",
            "    keep_private(chosen)\n", "",
            "integration/test_private_data.py::test_a_role_by_itself_closes_an_open_folder_and_says_so[api]"),
    mutant("worker-private", "... and so does a worker", "workers/__main__.py",
            "keep_private(settings)", "None",
            "integration/test_private_data.py::test_a_role_by_itself_closes_an_open_folder_and_says_so[worker]"),
    mutant("loopback", "an API without keys listens on this machine alone", _ACCESS,
            "not settings.auth and not _is_loopback(host)", "False",
            "integration/test_private_data.py::test_without_keys_it_listens_on_this_machine_alone"),
    mutant("private-objects", "objects are made for their owner alone", "service/artifacts/folder.py",
            ", opener=private.opener", "",
            "unit/test_private.py::test_a_store_makes_folders_and_objects_for_its_owner"),
    mutant("private-registry", "SQLite's files are made for their owner alone", "service/registry/engine.py",
            "if os.path.isabs(arguments[0]):", "if False:",
            "unit/test_private.py::test_sqlite_s_file_and_its_log_are_made_for_their_owner"),
    mutant("private-umask", "what libraries make in the data folder is its owner's alone", "service/core/privacy.py",
            "    private.restrict_umask()\n", "",
            "unit/test_private.py::test_messages_of_the_embedded_broker_and_what_libraries_make_are_their_owner_s"),
    mutant("private-mended", "what is found open is closed", "service/core/privacy.py",
            "    found = [private.mend_top(root) for root in roots]\n",
            "    found = [Mended() for root in roots]\n",
            "unit/test_private.py::test_what_is_open_is_closed_and_said"),
    mutant("path-no-url", "the registry's path is not parsed as a URL", "service/registry/engine.py",
            'sa.URL.create("sqlite", database=str(database.absolute()))', 'sa.make_url(f"sqlite:///{database.absolute()}")',
            "unit/test_paths.py::test_a_registry_is_in_its_folder"),
    mutant("broker-certificate", "the broker's certificate is checked", "service/messaging/celery_app.py",
            "ssl.CERT_REQUIRED", "ssl.CERT_NONE",
            "unit/test_celery_app.py::test_over_tls_the_broker_s_certificate_is_checked"),
    mutant("stopped-child", "a child that is stopped is replaced", _CHILDREN,
            "os.WSTOPPED | ", "",
            "unit/test_children.py::test_a_stopped_child_is_seen_and_ends"),
    mutant("grandchildren", "nothing that a child has started outlives it", _CHILDREN,
            "os.killpg(process.pid, signal.SIGKILL)", "process.kill()",
            "unit/test_children.py::test_one_that_does_not_listen_is_killed_with_what_it_has_started"),
]
# fmt: on
