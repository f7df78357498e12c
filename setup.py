"""Puts the recipes of configs/ into the package, as epfv2_jax/recipes, where it is built. All else is in setup.cfg."""

import glob
import os

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithRecipes(build_py):
    """Copies the recipes beside the modules. An editable install needs no copy: it finds configs/ itself."""

    def run(self):
        """Builds."""
        super().run()
        if not self.editable_mode:
            folder = os.path.join(self.build_lib, "epfv2_jax", "recipes")
            self.mkpath(folder)
            for recipe in glob.glob("configs/*.py"):
                self.copy_file(recipe, folder)


setup(cmdclass={"build_py": BuildWithRecipes})
