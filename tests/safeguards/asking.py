"""That no client, by how it asks, keeps others from being answered, or gets what it did not mean."""

from tests.safeguards.mutant import mutant

_BODIES = "contract/test_front_bodies.py"
_CONNECTIONS = "contract/test_front_connections.py"
_FRONT = "service/api/front.py"
_PROTOCOL = "service/api/connection.py"

# fmt: off
ASKING = [
    mutant("key-first", "a key is looked at before the body is read", _FRONT,
            "            await admit(request, scopes)\n", "",
            f"{_BODIES}::test_a_key_is_asked_for_before_a_byte_of_body_is_read"),
    mutant("body-announced", "a body that announces too much is not read", _FRONT,
            "            body.bound(_largest(", "            (lambda *_: None)(_largest(",
            f"{_BODIES}::test_a_body_that_announces_too_much_is_refused_unread"),
    mutant("body-counted", "a body of unknown length is counted as it comes", "service/api/bodies.py",
            "if self._received > self._limit:", "if False:",
            f"{_BODIES}::test_so_is_one_that_comes_without_end"),
    mutant("body-rate", "a body that drips is cut off", "service/api/bodies.py",
            "        if rate:\n", "        if False:\n",
            f"{_BODIES}::test_a_body_that_drips_is_cut_off"),
    mutant("body-left", "what is left of an unread body is not taken for a request", "service/api/bodies.py",
            'MutableHeaders(scope=message)["Connection"] = "close"', "pass",
            f"{_BODIES}::test_a_key_is_asked_for_before_a_byte_of_body_is_read"),
    mutant("head-time", "a byte now and then gains no time for a request's head", _PROTOCOL,
            "elif self._head_late is None and (self._head_begun or (awaited and heads == self._heads)):", "elif False:",
            f"{_CONNECTIONS}::test_a_byte_now_and_then_gains_nothing"),
    mutant("head-size", "a head without end is refused while it comes", _PROTOCOL,
            "if self._head_bytes > self.limits.max_header_bytes:", "if False:",
            f"{_CONNECTIONS}::test_headers_without_end_are_refused_while_they_come"),
    mutant("connections", "there are no more connections than there may be", _PROTOCOL,
            "if len(self.connections) > self.limits.max_connections:", "if False:",
            f"{_CONNECTIONS}::test_one_connection_too_many_is_told_so"),
    mutant("deaf-client", "a client that does not read is cut off", _PROTOCOL,
            "self._unread = self.loop.call_later(self.limits.idle_seconds, self.transport.abort)", "pass",
            f"{_CONNECTIONS}::test_a_client_that_does_not_read_is_cut_off"),
    mutant("intake-threads", "uploads take no thread of erasures and look-ups", "service/api/threads.py",
            "limiter=self._limiter", "limiter=None",
            "contract/test_front_threads.py::test_uploads_leave_the_rest_of_the_service_its_threads"),
    mutant("intake-line", "no more uploads wait than may", "service/api/threads.py",
            "if self._inside >= self._most:", "if False:",
            "contract/test_front_threads.py::test_a_line_is_as_long_as_it_is_said_to_be"),
    mutant("unknown-words", "what is asked by no known name is not ignored", _FRONT,
            '            _refuse_unknown("query", request.query_params.multi_items(), known)\n', "",
            "contract/test_front_words.py::test_an_unknown_query_parameter_is_named"),
    mutant("unknown-fields", "... nor what a form says", _FRONT,
            '        _refuse_unknown("body", form.multi_items(), known)\n', "        del form\n",
            "contract/test_front_words.py::test_a_form_says_what_is_known_and_once"),
]
# fmt: on
