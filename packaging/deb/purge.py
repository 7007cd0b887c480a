"""Removes what the drivers have written, but for each NAME whose instances may still run in a cloud.

Part of the package's postrm: at that time the package's own environment is gone, so the standard library has to do.
Such a NAME keeps its journal, configuration and logs, and the message says which instances and terminations they name.
A ledger is the only record of costs, and stays.
"""

import glob
import os
import shutil
import sqlite3
import stat
import sys
import urllib.parse

try:
    import tomllib
except ImportError:  # before Python 3.11, which no package depends on; the defaults are used then
    tomllib = None

CONF, VAR, LOG = "/etc/one/one_provider_mad", "/var/lib/one", "/var/log/one"

LEFT = """
SELECT 'unanswered ' || action || ' of VM ' || vm_id FROM requests
UNION ALL
SELECT 'instance ' || CASE deploy_id WHEN '' THEN 'without a known id' ELSE deploy_id END || ' of VM ' || vm_id
    || ' is to be terminated: ' || reason FROM debts
UNION ALL
SELECT CASE state WHEN 'open' THEN 'a create without an answer for VM ' || vm_id
    ELSE 'instance ' || deploy_id || ' of VM ' || vm_id END FROM attempts
    WHERE state NOT IN ('refused', 'gone') AND token NOT IN (SELECT token FROM debts)
UNION ALL
SELECT 'imported instance ' || deploy_id || ' of VM ' || vm_id FROM imported
    WHERE deploy_id NOT IN (SELECT deploy_id FROM instances WHERE ended_at > 0)
"""


def main():
    kept = [name for name in names() if not purge(name)]
    if not kept:
        for path in glob.glob(VAR + "/one_provider_budget_*.sqlite*"):
            os.remove(path)
    try:
        os.rmdir(CONF)
    except OSError:
        pass


def names():
    """The NAMEs of configurations and of journals at their usual place."""
    found = {os.path.basename(path)[: -len(".toml")] for path in glob.glob(CONF + "/*.toml")}
    for ending in (".journal", ".configured"):
        start = VAR + "/one_provider_mad_"
        found |= {path[len(start) : -len(ending)] for path in glob.glob(start + "*" + ending)}
    return sorted(found)


def purge(name):
    """Remove the files of NAME from their usual places, unless its journal names instances; return True if it does not.

    A path in the configuration, which OpenNebula's user may write, is not for root to remove.
    """
    settings = settings_of(name)
    usual = "{}/one_provider_mad_{}.journal".format(VAR, name)
    journal = settings.get("journal") or usual
    account, left = left_in(journal)
    if left:
        say("kept {}: in the account {} it names".format(journal, account))
        for sentence in left:
            say("    " + sentence)
        say(
            "    The configuration and the logs of {} are kept too. Install the package again to end these VMs".format(
                name
            )
        )
        say("    with OpenNebula, or terminate the instances in the cloud and remove the files.")
        return False
    if journal != usual and os.path.exists(journal):
        say("kept {}, which names no instance: the configuration of {} has put it there".format(journal, name))
    paths = [usual, usual + "-journal", "{}/one_provider_mad_{}.configured".format(VAR, name)]
    paths += ["{}/{}.toml".format(CONF, name), "{}/one_im_provider_{}.state".format(VAR, name)]
    paths.append("{}/one_im_provider_{}.state.new".format(VAR, name))
    kinds = ("prices", "types", "budget", "budget-journal", "ledger.lock")
    paths += ["{}/one_provider_mad_{}.{}".format(VAR, name, kind) for kind in kinds]
    for program in ("one_vmm_provider", "one_im_provider"):
        paths += glob.glob("{}/{}_{}.log*".format(LOG, program, glob.escape(name)))
    database = "{}/{}.db".format(VAR, name)
    if settings.get("provider", name) == "simulated" and is_simulated_cloud(database):
        paths += [database, database + "-journal", database + "-wal", database + "-shm"]
        paths.append(database + ".crashes")
    for path in paths:
        if os.path.lexists(path):
            os.remove(path)
    for kind in ("scripts", "probes"):
        shutil.rmtree("{}/one_provider_mad_{}.{}".format(VAR, name, kind), ignore_errors=True)
    ledger = "{}/one_provider_mad_{}.ledger".format(VAR, name)
    if os.path.lexists(ledger):
        say("kept {}, the only record of what {} has cost: remove it when nobody needs it".format(ledger, name))
    return True


def settings_of(name):
    """The settings of NAME; none without a file that can be read."""
    try:
        with open("{}/{}.toml".format(CONF, name), "rb") as file:
            return tomllib.load(file) if tomllib else {}
    except (OSError, ValueError):
        return {}


def left_in(journal):
    """The account of a journal, and a sentence for each instance, termination and request that it names."""
    try:
        if not stat.S_ISREG(os.lstat(journal).st_mode):
            return "unknown", ["it is no file"]
    except FileNotFoundError:
        return "", []
    try:
        db = opened(journal)
        try:
            account = db.execute("SELECT value FROM facts WHERE name = 'account'").fetchone()
            return account[0] if account else "unknown", [row[0] for row in db.execute(LEFT)]
        finally:
            db.close()
    except sqlite3.Error as error:
        return "unknown", ["what it names cannot be read: {}".format(error)]


def opened(path):
    return sqlite3.connect("file:{}?mode=ro".format(urllib.parse.quote(path)), uri=True)


def is_simulated_cloud(database):
    """False for another program's database: OpenNebula's own is /var/lib/one/one.db."""
    try:
        db = opened(database)
        try:
            tables = {row[0] for row in db.execute("SELECT name FROM sqlite_master")}
        finally:
            db.close()
    except sqlite3.Error:
        return False
    return "instance" in tables and "vm_pool" not in tables


def say(sentence):
    print("one-provider-mad: " + "".join(each if each.isprintable() else "?" for each in sentence))


if __name__ == "__main__":
    sys.exit(main())
