"""The reasons that a step's own result gives (trainer, server and evaluator images), with their meaning.

The operator passes them on as condition reasons. They are the images' words: nothing here is decided by the operator.
"""

from __future__ import annotations

from luthier.api.base import Documented


class StepReason(Documented):
    """Why a pod of ours ended as it did. The message has the names and numbers."""

    # Any step.
    INVALID_CONFIG = "InvalidConfig", "Operator and image are of different versions; install one chart version whole."
    STORAGE_NOT_WRITABLE = "StorageNotWritable", "A claim is full, read-only or not writable for user 65532; mend it."
    RESULT_UNREADABLE = "ResultUnreadable", "A result file is damaged; the step is done again."
    STEP_CRASHED = "StepCrashed", "A step failed as nobody expected; the message has its last error. It is tried again."
    # Base model.
    MODEL_NOT_FOUND = "ModelNotFound", "No folder is at the model's URI; check the path and its claim."
    MODEL_INCOMPLETE = "ModelIncomplete", "The model's folder lacks a file that it needs; the message names it."
    MODEL_UNREADABLE = "ModelUnreadable", "A file of the model may not be read by user 65532; make it readable."
    MODEL_REFUSED = "ModelRefused", "The model asks for code or pickled weights; only safetensors and JSON are used."
    MODEL_CHANGED = "ModelChanged", "The model's files changed after the data was prepared for them; start a new run."
    UNSAFE_MODEL = "UnsafeModel", "A folder to serve holds code or pickled weights; remove what the message names."
    LICENCE_REFUSED = "LicenceRefused", "The model declares another licence than spec.model.licence accepts."
    TOKENIZER_UNUSABLE = "TokenizerUnusable", "The model's tokenizer cannot be loaded or used."
    CHAT_TEMPLATE_MISSING = (
        "ChatTemplateMissing",
        "The model has no chat template; use dataset.render Raw or another one.",
    )
    END_OF_TEXT_MISSING = "EndOfTextMissing", "The tokenizer has no end-of-text token, so answers could not end."
    MAX_LENGTH_TOO_LARGE = "MaxLengthTooLarge", "training.maxLength is longer than the model's context."
    # Data.
    SOURCE_NOT_FOUND = "SourceNotFound", "Nothing is at a source's URI; check the path and its claim."
    SOURCE_UNREADABLE = "SourceUnreadable", "A file of a source may not be read by user 65532; make it readable."
    SOURCE_EMPTY = "SourceEmpty", "A source is a folder without .jsonl, .json or .csv files."
    SOURCE_REFUSED = "SourceRefused", "A source is no regular file, or a link that leads out of it."
    DATASET_EMPTY = "DatasetEmpty", "The sources have no rows, or none is left to train on."
    INVALID_ROWS = "InvalidRows", "Rows are wrong; the message names file and line of the first ones."
    DATA_REFUSED = "DataRefused", "A check of dataset.checks refuses the data; the message has numbers and a way out."
    TOO_FEW_EXAMPLES = "TooFewExamples", "Fewer training rows are left than dataset.checks.minExamples."
    ROWS_TOO_LONG = "RowsTooLong", "Rows are longer than training.maxLength and checks.tooLong is Fail."
    TOO_MANY_ROWS_TOO_LONG = "TooManyRowsTooLong", "More rows are too long than checks.maxDroppedPercent allows."
    DATA_NOT_PREPARED = "DataNotPrepared", "The prepared data is gone from the workspace; start a new run."
    DATASET_CHANGED = "DatasetChanged", "The prepared data is not what this run began with; start a new run."
    # Training.
    TRAINED = "Trained", "Training ended and its artifact is published."
    ALREADY_PUBLISHED = "AlreadyPublished", "An earlier attempt had published the artifact; nothing was left to do."
    ARTIFACT_EXISTS = "ArtifactExists", "Another artifact is where this one should go; artifacts are never overwritten."
    BATCH_NOT_DIVISIBLE = "BatchNotDivisible", "globalBatchSize is no multiple of processes times perDeviceBatchSize."
    TARGET_MODULES_NOT_FOUND = "TargetModulesNotFound", "The model has no layer of a name in peft.targetModules."
    NO_TRAINABLE_PARAMETERS = (
        "NoTrainableParameters",
        "Nothing in the model would be trained; check peft.targetModules.",
    )
    NUMERICAL_ERROR = "NumericalError", "Loss or weights became NaN or infinite; lower training.learningRate."
    WEIGHTS_UNCHANGED = "WeightsUnchanged", "Training left the adapter as it was; raise learningRate or epochs."
    WORKER_LOST = "WorkerLost", "A training process died without a word; often memory. It is tried again."
    TRAINING_CRASHED = "TrainingCrashed", "A training process failed; the message has its last error."
    WRONG_WORLD_SIZE = "WrongWorldSize", "Another number of processes started than the configuration says."
    WORLD_SIZE_CHANGED = "WorldSizeChanged", "The checkpoint is of another number of processes; it cannot be resumed."
    # Serving and evaluation.
    ARTIFACT_INCOMPLETE = "ArtifactIncomplete", "The artifact's folder is not complete, or not one of a FineTuneJob."
    BASE_MISMATCH = "BaseMismatch", "The adapter was trained on another base than the one to serve."
    DIGEST_MISMATCH = "DigestMismatch", "The files are not the ones that were named; nothing was loaded."
    TEMPLATE_MISMATCH = "TemplateMismatch", "The engine renders a probe to other tokens than training did."
    UNSUPPORTED_ADAPTER = "UnsupportedAdapter", "The engine cannot serve this adapter; the message says what about it."
    INVALID_RESPONSE_SCHEMA = "InvalidResponseSchema", "spec.responseSchema is not a usable JSON Schema."
    ENGINE_REFUSED = "EngineRefused", "The engine does not accept these options for this model."
    INVALID_SUITE = "InvalidSuite", "A suite's file is missing, empty or has a broken row; the message names the line."
    INVALID_SCHEMA = "InvalidSchema", "A metric's jsonSchema is not a JSON Schema."
    PROMPTS_REFUSED = "PromptsRefused", "The engine refuses every prompt of a side: raise servingProfile.maxModelLen."
    ENGINE_NOT_READY = "EngineNotReady", "The engine beside the evaluator did not become ready in time."
