"""moe-fashion-mnist: the baseline of snnl-moe-fashion-mnist, trained by cross entropy alone.

Data       the images of Fashion-MNIST that travel with the package
Command    star-keras pretrain moe-fashion-mnist --folder runs/moe-fashion-mnist
Published  the same with `--precision float32`

The recipe is that of snnl-moe-fashion-mnist with other defaults.
"""

import pathlib
import runpy

import star_keras as sk

if __name__ == "__main__":
    path = pathlib.Path(__file__).parents[1] / "snnl-moe-fashion-mnist" / "recipe.py"
    run = runpy.run_path(str(path))["run"]
    sk.recipes.command_line(run, folder="runs/moe-fashion-mnist", data="fashion_mnist", weight=0.0)
