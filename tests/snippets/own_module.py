"""LinkedOut item vectors inside a LightningModule of one's own."""

import lightning as L
import torch
from torch.nn import functional as F

from linkedout_lightning import InteractionDataModule, LinkedOutItemEncoder
from linkedout_lightning.evaluation import RankingMetrics, target_ranks


class MeanOfHistory(L.LightningModule):
    def __init__(self, items: LinkedOutItemEncoder) -> None:
        super().__init__()
        self.items = items
        self.mix = torch.nn.Linear(items.dim, items.dim)
        self.metrics = RankingMetrics(ks=(10,))

    def user_states(self, inputs, table):  # (B, M) item indices -> (B, H)
        seen = F.embedding(inputs, table)  # padding has the zero vector
        return self.mix(seen.sum(1) / (inputs != 0).sum(1, keepdim=True).clamp(min=1))

    def training_step(self, batch, _):
        table = self.items.all_items()  # (N + 1, H), once a step
        scores = self.user_states(batch.items[:, :-1], table) @ table[1:].T
        return F.cross_entropy(scores, batch.items[:, -1] - 1)

    def validation_step(self, batch, _):
        table = self.items.all_items()
        scores = self.user_states(batch.inputs, table) @ table.T
        self.metrics.update(target_ranks(scores, batch.target, batch.history))

    def on_validation_epoch_end(self):
        self.log_dict(self.metrics.compute())
        self.metrics.reset()

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)


def main(interactions, features, **trainer_options) -> L.Trainer:
    """Train on a table of interactions and a (N, L, S, D) tensor of features, in item order."""
    data = InteractionDataModule(interactions, batch_size=64)
    data.setup()
    items = LinkedOutItemEncoder.from_features(
        features, item_ids=data.item_ids, train_items=data.train_item_mask, dim=32
    )
    trainer = L.Trainer(**trainer_options)
    trainer.fit(MeanOfHistory(items), data)
    return trainer
