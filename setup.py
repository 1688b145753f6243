"""Maps the top-level folders into the package `convaudit`; everything else stands in pyproject.toml.

A list of packages in pyproject.toml would drop a new subpackage from the wheel without a word.
"""

from setuptools import find_packages, setup

ROOTS = ("pipelines", "stages", "reports", "conf")

setup(
    packages=[f"convaudit.{name}" for root in ROOTS for name in (root, *(f"{root}.{p}" for p in find_packages(root)))],
    package_dir={f"convaudit.{root}": root for root in ROOTS},
    package_data={
        "convaudit.conf": ["**/*.yaml"],
        "convaudit.reports": ["templates/*", "static/*"],
        "convaudit.pipelines": ["scaffold/**/*", "scaffold/.*", "py.typed"],
        "convaudit.stages": ["py.typed"],
    },
)
