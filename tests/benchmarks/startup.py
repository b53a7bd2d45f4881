"""What a user waits for once: `--case import`, beyond `import keras`; `--case load`, a ResNet-18 on disk."""

import subprocess
import sys
import tempfile

import protocol

SAVE = """
import sys
import star_keras as sk
sk.models.save(sk.models.create("resnet18", input_shape=(32, 32, 3)), sys.argv[1])
"""


def make(case, impl):
    """`import` or `load`; the only implementation is `star_keras`."""
    import keras  # noqa: F401

    if case == "import":

        def run():
            import star_keras  # noqa: F401

        return run, {}

    import star_keras as sk

    # Another process saves, so that this one meets the model for the first time.
    folder = tempfile.TemporaryDirectory()
    path = f"{folder.name}/resnet18"
    subprocess.run([sys.executable, "-c", SAVE, path], check=True)

    def run():
        sk.models.load(path)
        folder.cleanup()

    return run, {}


if __name__ == "__main__":
    protocol.main(make, repetitions=1, warmup=0, attempts=1)
