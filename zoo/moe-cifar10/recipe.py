"""moe-cifar10: the baseline of snnl-moe-cifar10, trained by cross entropy alone.

Data       cifar10_train45k and cifar10_test1k in the folder STAR_KERAS_DATA
Command    star-keras pretrain moe-cifar10 --folder runs/moe-cifar10
Published  the same with `--precision float32`

The recipe is that of snnl-moe-fashion-mnist with other defaults.
"""

import pathlib
import runpy

import star_keras as sk

if __name__ == "__main__":
    path = pathlib.Path(__file__).parents[1] / "snnl-moe-fashion-mnist" / "recipe.py"
    run = runpy.run_path(str(path))["run"]
    sk.recipes.command_line(run, folder="runs/moe-cifar10", data="cifar10", weight=0.0, epochs=12)
