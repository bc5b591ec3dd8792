# The commands of this repository; each one's work is in scripts/.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help up down test check matrix bench lab dist sim faults fuzz test-fresh test-vm

# release, or dev for a build that is quicker and larger.
PROFILE ?= release
export PROFILE

help: ## show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 20
	@echo
	@echo "Variables of make up: PROFILE=dev; KEYS_LISTEN, METRICS_LISTEN, DNS_LISTEN (ip:port); PORT_RANGE"

up: ## install what is missing, build, start a one-machine cluster with the example
	@scripts/up.sh

down: ## stop and remove that cluster; PURGE=1 its state too, VOLUMES=1 its volumes too
	@scripts/down.sh

check: ## format, lints, documentation
	@scripts/check.sh

test: ## every test, on real etcd and real Docker (installs what is missing)
	@scripts/test.sh

test-fresh: ## make up and make down in a fresh Debian 12, and nothing left behind
	@scripts/test-fresh.sh

test-vm: ## the package in a virtual Debian 13: systemd, cgroup v2, a reboot, cloud-init
	@scripts/test-vm.sh

dist: ## a static program, a tarball and a .deb in target/packages
	@scripts/dist.sh

matrix: ## tests on Docker 20, 26, 28 and image stores, etcd 3.4 and 3.5; LAB_ENGINE=26 for one
	@scripts/matrix.sh

bench: ## measure against the floors and print both
	@scripts/bench.sh

sim: ## play whole clusters with faults by seed: SEEDS=10000, or SEED=17 with its story
	@scripts/sim.sh

fuzz: ## packets to DNS from both sides, guided by coverage: TARGET=answers TIME=3600; MERGE=1
	@scripts/fuzz.sh

faults: ## random faults on three real hosts by seed: SEED=7 FAULTS=200
	@scripts/faults.sh

lab: ## three hosts on this machine to play with: LAB_ENGINE=20,28-containerd LAB_ETCD=3.5
	@scripts/lab.sh
