"""Quality for time: images after equal wall-clock training, beside two peers, judged by one evaluator.

    python -m benchmarks.quality [--sets digits,emoji,mnist] [--seconds 600]

Three folders of pictures; three programs, each in a process of its own, as their users run them:

- ours: ``train.py data=image_folder data.paths.train=FOLDER training.epochs=N``; beside these only device,
  threads and ``logger=none`` are given;
- denoising_diffusion_pytorch: its ``Trainer`` with the arguments of its README;
- diffusers: a loop around ``UNet2DModel`` with the arguments of its example ``train_unconditional.py``.

The networks have equal numbers of parameters within 20 %, take optimizer steps on equal numbers of images, and none
mirrors them. All train for the time that ours took, on all cores of the machine; weights are kept on the way, so that
quality is known against time. Ours spends a part of that time on validation, on a grid of samples every ten epochs
and on checkpoints, and trains on nine tenths of the images; the peers do none of it. Each draws from its averaged
weights by DDIM with equal numbers of steps.
"""
