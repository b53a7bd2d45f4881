"""snnl-moe-cifar10: the mixture of snnl-moe-fashion-mnist on CIFAR-10.

Data       cifar10_train45k and cifar10_test1k in the folder STAR_KERAS_DATA
Command    star-keras pretrain snnl-moe-cifar10 --folder runs/snnl-moe-cifar10
Published  the same with `--precision float32`

The recipe is that of snnl-moe-fashion-mnist with other defaults.
"""

import pathlib
import runpy

import star_keras as sk

if __name__ == "__main__":
    recipe = runpy.run_path(str(pathlib.Path(__file__).parents[1] / "snnl-moe-fashion-mnist" / "recipe.py"))
    sk.recipes.command_line(
        recipe["run"], folder="runs/snnl-moe-cifar10", data="cifar10", weight=1.0, epochs=12
    )
