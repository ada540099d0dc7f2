"""Image quality for equal training time: this project and two peers, measured by one evaluator.

    python -m benchmarks.quality [--sets digits,emoji,mnist] [--seconds 600]

Three image folders, three programs. Each runs in its own process, as its users run it:

- ours: ``train.py data=image_folder data.paths.train=FOLDER training.epochs=N``; only device, threads and
  ``logger=none`` are set besides;
- denoising_diffusion_pytorch: its ``Trainer`` with the arguments of its README;
- diffusers: a loop around ``UNet2DModel`` with the arguments of its example ``train_unconditional.py``.

The networks have the same number of parameters within 20 % and the same number of images per optimizer step, and none
is trained with flips. All train for the time that ours took, on all cores of the machine. Snapshots of the weights are
saved during training, so that quality is known as a function of time. Ours spends part of that time on validation, on a
grid of samples every ten epochs and on checkpoints, and trains on nine tenths of the images; the peers do none of
this. Images are sampled from the averaged weights by DDIM with the same number of steps.
"""
