# SPDX-License-Identifier: GPL-2.0-or-later
"""Wrong starts, and what the build itself has to see."""

from __future__ import annotations

from tools.mutants.row import Mutant
from tools.mutants.story import REFUSED

WRONG_STARTS = (
    Mutant(
        "store-out-of-reach-permits",
        "A store out of reach refuses, and the record says so.",
        "enforcer/cluster/etcd_store.py",
        "        except TimeoutError:\n"
        '            reason = f"the lease store did not answer: no decision within {budget_s:.1f} s"\n'
        '            return Denied(Standing.UNKNOWN, reason, remedy="enforcer doctor")\n'
        "        except EnforcerError as error:\n"
        "            return Denied(Standing.UNKNOWN, str(error), remedy=error.hint)\n",
        "        except (TimeoutError, EnforcerError):\n"
        "            me, now, none = self.holder, utc_now(), Guarantee.NONE\n"
        "            mine = (Lease(c.resource, c.mode, me, 1, now, none, {}) for c in claims)\n"
        "            return Granted(1, tuple(mine), True)\n",
        f"{REFUSED}::test_a_store_out_of_reach_refuses_and_says_so",
    ),
    Mutant(
        "bad-policy-loaded",
        "A bad policy keeps the daemon from starting, with file and line and its exit code.",
        "enforcer/policy/parse.py",
        "    if problems:\n        raise PolicyErrors(dict.fromkeys(problems))\n",
        "",
        "tests/unit/daemon/test_daemon_start.py::test_bad_policy",
    ),
    Mutant(
        "prerequisites-not-looked-at",
        "A missing prerequisite keeps the daemon from starting, in one sentence.",
        "enforcer/kernel/prerequisites.py",
        "        if not item.ok:\n            error: type",
        "        if False:\n            error: type",
        "tests/unit/kernel/test_kernel_prerequisites.py::test_what_is_missing",
    ),
    Mutant(
        "prerequisites-not-required",
        "The daemon looks for what it needs before it begins anything.",
        "enforcer/daemon/main.py",
        "    prerequisites.require()\n",
        "",
        "tests/unit/daemon/test_daemon_start.py::test_missing_prerequisite",
    ),
    Mutant(
        "anybody-starts-it",
        "Who is not root is told so, with the exit code for it.",
        "enforcer/daemon/main.py",
        "    if os.geteuid() != 0:\n",
        "    if False:\n",
        "tests/unit/daemon/test_daemon_start.py::test_not_root",
    ),
    Mutant(
        "second-daemon",
        "A second daemon is refused, and names the first one's pid.",
        "enforcer/daemon/main.py",
        "            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)\n",
        "            fcntl.fcntl(descriptor, fcntl.F_GETFD)\n",
        "tests/unit/daemon/test_daemon_start.py::test_a_second_one",
    ),
)

BUILD = (
    Mutant(
        "abi-field-swapped",
        "A field that moved on the Python side alone is found without a kernel.",
        "enforcer/kernel/abi.py",
        '        ("token", _u64),\n        ("resource", _u64),\n',
        '        ("resource", _u64),\n        ("token", _u64),\n',
        "tests/unit/kernel/test_kernel_abi.py::test_the_object_fits",
    ),
    Mutant(
        "abi-constant-changed",
        "A constant that changed on the Python side alone is found without a kernel.",
        "enforcer/kernel/abi.py",
        "    CLOSING = 3\n    ELSEWHERE = 4\n",
        "    CLOSING = 4\n    ELSEWHERE = 3\n",
        "tests/unit/kernel/test_kernel_abi.py::test_the_object_fits",
    ),
    Mutant(
        "hook-that-cannot-sleep",
        "What the object attaches to is what stands in the list, read by pyelftools.",
        "bpf/supers.h",
        'SEC("lsm.s/sb_remount")',
        'SEC("lsm/sb_remount")',
        "tests/unit/kernel/test_kernel_object.py::test_programs",
    ),
    Mutant(
        "guard-and-model-differ",
        "The guard's decision in C is that of its model in Python, on every input.",
        "enforcer/kernel/decide.py",
        "now_ns < deadline_ns",
        "now_ns <= deadline_ns",
        "tests/unit/kernel/test_kernel_decide.py::test_same_answer_on_every_input",
    ),
    Mutant(
        "lint-ruff",
        "make lint finds what ruff finds.",
        "enforcer/model/clock.py",
        "from __future__ import annotations\n",
        "from __future__ import annotations\n\nimport json\n",
        "ruff check",
    ),
    Mutant(
        "lint-mypy",
        "make lint finds a wrong type.",
        "enforcer/kernel/fuse.py",
        "    return int(unique)\n",
        "    return str(unique)\n",
        "mypy --strict",
    ),
    Mutant(
        "lint-clang",
        "make lint finds what clang warns of.",
        "bpf/supers.h",
        "\tint late;\n",
        "\tint late, unused;\n",
        "clang -Wall -Wextra -Werror",
    ),
    Mutant(
        "failed-suite-is-fine",
        "make test fails if a test of any suite failed.",
        "tools/test.py",
        "    return 1 if failed else 0\n",
        "    return 0\n",
        "tests/unit/plumbing/test_tools.py::test_what_failed_is_told_at_the_end_and_the_last_line_is_the_whole_outcome",
    ),
    Mutant(
        "fixture-errors-uncounted",
        "make test counts a fixture that broke as a failure.",
        "tools/test.py",
        ', *case.iterfind("error")]',
        "]",
        "tests/unit/plumbing/test_tools.py::test_a_report_is_counted",
    ),
    Mutant(
        "readme-link-broken",
        "What the README names is there.",
        "README.md",
        "(docs/architecture.md)",
        "(docs/architektur.md)",
        "tests/unit/test_docs.py::test_links",
    ),
)

MUTANTS = (*WRONG_STARTS, *BUILD)
