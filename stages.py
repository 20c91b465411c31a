"""STAGES, the table of the training stages: --stage N trains STAGES[N]."""
from stage import Stage
from trainer_stage1 import Stage1
from trainer_stage2 import Stage2
from trainer_stage3 import Stage3
from trainer_stage4 import Stage4
from trainer_stage5 import Stage5

STAGES: dict[int, type[Stage]] = {1: Stage1, 2: Stage2, 3: Stage3, 4: Stage4, 5: Stage5}
