"""Lets Bazel 4, as in Debian 12, build this repository without network.

For any Python program that Bazel looks at its C++, Java and coverage tools, and so
downloads three repositories. Here the first two only pass on rules that it was born
with, and of the third a build asks only the names: `bazel coverage` does not work.
"""

def _pass_on(rules):
    return "\n".join(["{0} = native.{0}".format(rule) for rule in rules])

_REPOSITORIES = {
    "rules_cc": {
        "cc/BUILD": "",
        "cc/defs.bzl": _pass_on(
            ["cc_binary", "cc_library", "cc_test", "cc_toolchain", "cc_toolchain_suite"],
        ),
    },
    "rules_java": {
        "java/BUILD": "",
        "java/defs.bzl": _pass_on(["java_import", "java_runtime", "java_toolchain"]),
    },
    "remote_coverage_tools": {
        "BUILD": """
package(default_visibility = ["//visibility:public"])

filegroup(name = "coverage_report_generator")

filegroup(name = "lcov_merger")
""",
    },
}

def _write_impl(repository_ctx):
    for path, content in repository_ctx.attr.files.items():
        repository_ctx.file(path, content)

_write = repository_rule(
    implementation = _write_impl,
    attrs = {"files": attr.string_dict()},
)

def offline():
    """Puts the three in place. Other Bazels have their own ways."""
    # Debian's does not know its version: the string is empty.
    if native.bazel_version and not native.bazel_version.startswith("4."):
        return
    for name, files in _REPOSITORIES.items():
        _write(name = name, files = files)
