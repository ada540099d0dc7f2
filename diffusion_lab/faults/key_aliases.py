"""Common names of the settings elsewhere: in other programs of the field, in papers, and as abbreviations."""

from __future__ import annotations

ALIASES: dict[str, tuple[str, ...]] = {
    "training.epochs": ("num_epochs", "n_epochs", "max_epochs", "num_train_epochs", "epoch"),
    "training.max_steps": ("train_steps", "total_steps", "num_train_steps", "num_iterations", "iterations"),
    "training.max_time": ("time_limit", "max_hours"),
    "training.callbacks": ("callback", "early_stopping"),
    "data.loading.batch_size": ("batch_size", "batch", "batchsize", "bs", "train_batch_size", "microbatch"),
    "generation.sampling.batch_size": ("batch_size", "batch", "batchsize", "bs", "sample_batch_size"),
    "data.loading.num_workers": ("workers", "n_workers", "num_worker", "dataloader_num_workers"),
    "training.optimizer.learning_rate": ("lr", "base_lr", "max_lr", "train_lr", "learningrate"),
    "training.optimizer.weight_decay": ("wd", "decay_rate", "l2"),
    "training.optimizer.betas": ("beta1", "beta2", "beta", "adam_beta1", "adam_beta2", "momentum"),
    "training.optimizer.gradient_clip_norm": ("gradient_clip_val", "grad_clip", "clip_grad", "clip_grad_norm",
                                              "grad_norm", "max_grad_norm", "clip_norm", "gradient_clip"),
    "training.optimizer.type": ("optim", "optimizer_type"),
    "training.accumulate_batches": ("accumulate_grad_batches", "gradient_accumulation_steps", "grad_accum",
                                    "gradient_accumulate_every", "accumulate"),
    "training.scheduler.type": ("lr_scheduler", "lr_schedule", "scheduler_type"),
    "training.scheduler.warmup_steps": ("warmup", "lr_warmup_steps", "num_warmup_steps"),
    "training.ema.decay": ("ema_decay", "ema_rate", "ema_beta"),
    "training.ema.enabled": ("use_ema", "ema"),
    "training.performance.precision": ("precision", "amp", "use_amp", "fp16", "bf16", "use_fp16", "mixed_precision",
                                       "dtype"),
    "generation.sampling.precision": ("precision",),
    "training.performance.compile_model": ("compile", "torch_compile"),
    "training.log_interval": ("log_every", "log_every_n_steps", "log_freq", "log_frequency"),
    "training.checkpointing.save_frequency": ("save_every", "save_interval", "checkpoint_every", "save_freq"),
    "training.checkpointing.keep_last": ("save_top_k", "checkpoints_total_limit", "keep_checkpoints"),
    "training.visualization.interval": ("sample_every", "sample_interval"),
    "training.resume.checkpoint": ("resume", "resume_from", "resume_checkpoint", "ckpt_path", "ckpt",
                                   "resume_from_checkpoint"),
    "training.loss.penalty.type": ("loss", "loss_type", "criterion"),
    "sampler.steps": ("steps", "num_steps", "n_steps", "sampling_steps", "num_sampling_steps", "sample_steps",
                      "num_inference_steps", "inference_steps", "ddim_steps", "nfe"),
    "model.diffusion.num_timesteps": ("steps", "num_steps", "timesteps", "n_timesteps", "num_train_timesteps",
                                      "diffusion_steps", "t"),
    "model.diffusion.prediction": ("prediction_type", "objective", "parameterization", "predict"),
    "model.diffusion.beta_schedule": ("noise_schedule", "schedule"),
    "model.architecture.image_size": ("resolution", "img_size", "size", "imagesize", "sample_size"),
    "model.architecture.model_channels": ("channels", "dim", "base_channels", "width", "num_channels"),
    "model.architecture.hidden_size": ("embed_dim", "d_model"),
    "model.architecture.depth": ("num_layers", "n_layers"),
    "model.architecture.num_heads": ("heads", "n_heads"),
    "model.architecture.in_channels": ("channels", "image_channels", "img_channels"),
    "model.architecture.channel_multipliers": ("channel_mult", "dim_mults", "ch_mult"),
    "model.conditioning.num_classes": ("classes", "n_classes", "num_class"),
    "model.conditioning.type": ("class_cond", "conditional"),
    "model.conditioning.class_dropout_prob": ("class_dropout", "cfg_dropout", "p_uncond", "cond_drop_prob",
                                              "label_dropout"),
    "data.paths.train": ("dataset", "data_dir", "train_dir", "data_path", "train_path", "train_data_dir", "folder"),
    "data.paths.val": ("val_dir", "val_path", "validation_dir"),
    "compute.device": ("devices", "gpu", "gpus", "num_gpus", "cuda", "accelerator"),
    "compute.seed": ("random_seed", "manual_seed", "global_seed"),
    "compute.threads": ("num_threads", "n_threads"),
    "output.base_dir": ("out_dir", "output_dir", "outdir", "save_dir", "log_dir", "logdir", "results_folder",
                        "results_dir", "run_dir"),
    "logger.project": ("wandb_project",),
    "training.visualization.guidance_scale": ("guidance_scale",),
    "training.visualization.num_samples": ("num_samples",),
    "generation.sampling.guidance_scale": ("cfg_scale", "cfg", "guidance_weight", "guidance_strength"),
    "generation.sampling.num_samples": ("n_samples", "num_images", "num_fid_samples"),
    "generation.checkpoint": ("ckpt_path", "ckpt", "checkpoint", "model_path"),
}  # fmt: skip
"""Aliases by key; a name may stand for several keys, the most likely first."""
AMBIGUOUS = ("steps", "num_steps", "n_steps", "channels")
"""Names that stand for two keys about equally often."""


def keys_with_alias(name: str) -> list[str]:
    """Return the keys that a name may stand for, ignoring case and hyphens."""
    normalized = name.lower().replace("-", "_")
    return [key for key, names in ALIASES.items() if normalized in names]
