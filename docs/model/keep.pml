/* SPDX-License-Identifier: Apache-2.0
 *
 * The Keep session protocol, version 1: who agrees with whom on what, and who learns what. README.md beside this file says
 * what is left out, how many of everything there are, and how each mutant falls.
 *
 * The attacker is no process. He owns the network and is a tenant himself, so he is one end of every connection whose two
 * ends are not both honest; there, an honest party receives whatever he can make of all that was ever said: every guard
 * that begins `made` is "he has such evidence". Evidence and sealed releases are published as they are made, whether he saw
 * them or not. A message that would be refused is not offered: refusing ends a session, which he may do at any time.
 *
 * Switches: -D of a mutant takes one thing away (NO_EXPORTER NO_KEEP_LEAF NO_TENANT_LEAF NO_CHALLENGE NO_PURPOSE NO_OFFER_HASH
 * NO_INFO NO_RECEIPT_HASH ANY_ATTACH SECOND_PROVISION); FALLEN is how many have fallen of the three things that tell
 * sessions apart (0 to 3, below); HPKE_REUSED, DISTINCT_LEAVES; REACHABLE asserts that honest parties never finish.
 */

#ifndef FALLEN
#define FALLEN 2
#endif

/* --- names: small numbers; 0 is "nothing", and what a mutant leaves out of a binding */

#define DEPLOYMENTS 2
#define KEEPS 2
#define EMPTY_SESSIONS 2         /* that a Keep serves before it was provisioned */
#define ATTACHES 1               /* that a Keep serves after */

/* A tenant's sessions: 0 and 1 provision deployments 0 and 1; 2 and 3 attach to them. */
#define SESSIONS 4
#define STRANGER SESSIONS        /* "the attacker" where a session's number is asked for */

#define KEEP_LEAF(k) (1 + (k))
#define ATTACKER_LEAF 3
#ifdef DISTINCT_LEAVES
#define TENANT_LEAF(d) (4 + (d)) /* two tenants, or one as `enarx deploy` is */
#else
#define TENANT_LEAF(d) 4         /* one tenant that uses one leaf for two deployments */
#endif

#define SYNCHRONISED 1           /* the exporter that the attacker gives all his connections, once exporters have fallen */
#define PIPE_EXPORTER(t) (2 + (t))
#define TENANT_EXPORTER(t) (6 + (t))
#define KEEP_EXPORTER(k, n) (10 + 4 * (k) + (n))

#define NONCE(t) (1 + (t))
#define ATTACKER_NONCE 9

#define ATTACKER_HPKE 1
#ifdef HPKE_REUSED
#define HPKE(k, n) (2 + (k))
#else
#define HPKE(k, n) (2 + EMPTY_SESSIONS * (k) + (n))
#endif

/* A release is its package, configuration and salt; no two deployments have the same. */
#define RELEASE(d) (1 + (d))
#define ATTACKER_RELEASE 3
#define RECEIPT(release, leaf) (8 * (release) + (leaf))

#define FOR_OFFER 1
#define FOR_RECEIPT 2
#define FOR_ATTACH 3

/* --- what may have fallen, chosen at the start */

bool exporter_fell;              /* who ends two connections can give them one exporter */
bool keep_leaf_fell;             /* he has the private keys of the Keeps' leaves */
bool tenant_leaf_fell;           /* he has the private keys of the honest tenants' leaves */

/* --- bindings: what report data is a hash of */

typedef Binding {
  byte purpose;
  byte exporter;
  byte keep_leaf;
  byte tenant_leaf;
  byte challenge;
  byte body;                     /* of the offer: its HPKE key; of an attachment: nothing that matters here */
  byte receipt;
}

#ifdef NO_PURPOSE
#define BOUND_PURPOSE(v) 0
#else
#define BOUND_PURPOSE(v) (v)
#endif
#ifdef NO_EXPORTER
#define BOUND_EXPORTER(v) 0
#else
#define BOUND_EXPORTER(v) (v)
#endif
#ifdef NO_KEEP_LEAF
#define BOUND_KEEP_LEAF(v) 0
#else
#define BOUND_KEEP_LEAF(v) (v)
#endif
#ifdef NO_TENANT_LEAF
#define BOUND_TENANT_LEAF(v) 0
#else
#define BOUND_TENANT_LEAF(v) (v)
#endif
#ifdef NO_CHALLENGE
#define BOUND_CHALLENGE(v) 0
#else
#define BOUND_CHALLENGE(v) (v)
#endif
#ifdef NO_OFFER_HASH
#define BOUND_BODY(v) 0
#else
#define BOUND_BODY(v) (v)
#endif
#ifdef NO_RECEIPT_HASH
#define BOUND_RECEIPT(purpose, v) ((purpose) == FOR_ATTACH -> 0 : (v))
#else
#define BOUND_RECEIPT(purpose, v) (v)
#endif

/* Evidence that a genuine Keep made: offers first, then a receipt, then attachments. */
#define OFFER_SLOT(k, n) ((k) * PER_KEEP + (n))
#define RECEIPT_SLOT(k) ((k) * PER_KEEP + EMPTY_SESSIONS)
#define ATTACH_SLOT(k, n) ((k) * PER_KEEP + EMPTY_SESSIONS + 1 + (n))
#define PER_KEEP 4
#define SLOTS 8
#define FREE_CHOICE SLOTS        /* evidence for `identity` or `self-signed`: the attacker says over what */

Binding evidence[SLOTS];
byte made_for[SLOTS];            /* the purpose, whatever is bound; 0: not made yet */
byte answers[SLOTS];             /* the challenge, whatever is bound */
byte his;                        /* bit t: session t, which goes on, ends at the attacker and has sent him its challenge */
bool begun;                      /* deployment 0 has connected */
bool attacker_runs;              /* he has a workload in a genuine Keep, which gets it certificates */

inline attest(slot, why, x, kl, tl, its_nonce, what, record) {
  evidence[slot].purpose = BOUND_PURPOSE(why);
  evidence[slot].exporter = BOUND_EXPORTER(x);
  evidence[slot].keep_leaf = BOUND_KEEP_LEAF(kl);
  evidence[slot].tenant_leaf = BOUND_TENANT_LEAF(tl);
  evidence[slot].challenge = BOUND_CHALLENGE(its_nonce);
  evidence[slot].body = BOUND_BODY(what);
  evidence[slot].receipt = BOUND_RECEIPT(why, record);
  made_for[slot] = why;
  answers[slot] = its_nonce;
}

#define SAME_SESSION(e, x, kl, tl, nonce) \
  (evidence[e].exporter == BOUND_EXPORTER(x) && evidence[e].keep_leaf == BOUND_KEEP_LEAF(kl) && \
   evidence[e].tenant_leaf == BOUND_TENANT_LEAF(tl) && evidence[e].challenge == BOUND_CHALLENGE(nonce))
#define MATCHES(e, why, x, kl, tl, nonce, what, record) \
  (made_for[e] && evidence[e].purpose == BOUND_PURPOSE(why) && SAME_SESSION(e, x, kl, tl, nonce) && \
   evidence[e].body == BOUND_BODY(what) && evidence[e].receipt == BOUND_RECEIPT(why, record))

/* --- releases as sealed */

typedef Sealed {
  bool made;
  byte hpke;
  byte exporter;                 /* from here on: what `info` is a hash of */
  byte keep_leaf;
  byte tenant_leaf;
  byte challenge;
}
Sealed sealed[DEPLOYMENTS];

#ifdef NO_INFO
#define OPENS(d, key, x, kl, tl, nonce) (sealed[d].made && sealed[d].hpke == (key))
#else
#define OPENS(d, key, x, kl, tl, nonce) \
  (sealed[d].made && sealed[d].hpke == (key) && \
   sealed[d].exporter == BOUND_EXPORTER(x) && sealed[d].keep_leaf == BOUND_KEEP_LEAF(kl) && \
   sealed[d].tenant_leaf == BOUND_TENANT_LEAF(tl) && sealed[d].challenge == BOUND_CHALLENGE(nonce))
#endif

/* --- connections with two honest ends: the attacker can only cut them */

chan dial[KEEPS] = [0] of { byte };          /* session */
chan said[SESSIONS] = [1] of { byte, byte }; /* to the tenant: slot of the evidence, HPKE key or 0 */
chan sent[SESSIONS] = [1] of { bool };       /* to the Keep: the provision, or `attach` */
bool closed[SESSIONS];

/* --- what Keeps came to */

byte running[KEEPS];             /* release; 0: empty */
byte owner[KEEPS];               /* leaf that provisioned it */
byte through[KEEPS];             /* session in which; STRANGER: one of the attacker's */
byte times_run[DEPLOYMENTS];
bool woken;
byte finished;

inline any_of_mine(found, why, x, kl, tl, its_nonce, what, record) {
  /* The attacker answers with evidence that fits, when he has some; which slot it is in is his choice. */
  if
  :: MATCHES(0, why, x, kl, tl, its_nonce, what, record) -> found = 0
  :: MATCHES(1, why, x, kl, tl, its_nonce, what, record) -> found = 1
  :: MATCHES(2, why, x, kl, tl, its_nonce, what, record) -> found = 2
  :: MATCHES(3, why, x, kl, tl, its_nonce, what, record) -> found = 3
  :: MATCHES(4, why, x, kl, tl, its_nonce, what, record) -> found = 4
  :: MATCHES(5, why, x, kl, tl, its_nonce, what, record) -> found = 5
  :: MATCHES(6, why, x, kl, tl, its_nonce, what, record) -> found = 6
  :: MATCHES(7, why, x, kl, tl, its_nonce, what, record) -> found = 7
#ifdef NO_PURPOSE
  :: attacker_runs -> found = FREE_CHOICE
#endif
  :: goto over                   /* the session is cut instead */
  fi
}

inline connect(t) {
  /* The network decides where a tenant's connection ends. Of leaves and exporters that he can choose, those that no genuine
     Keep can attest are no use to him, so they are left out where he has better. */
  atomic {
    (t != 1 || begun);           /* deployments are alike: 0 is the one that began */
    begun = true;
    if
    :: dial[0]!t -> peer = 0; keep_leaf = KEEP_LEAF(0); exporter = PIPE_EXPORTER(t)
    :: woken -> dial[1]!t; peer = 1; keep_leaf = KEEP_LEAF(1); exporter = PIPE_EXPORTER(t)
    :: peer = KEEPS;
      his = his | (1 << t);
      if
      :: !keep_leaf_fell -> keep_leaf = ATTACKER_LEAF
      :: keep_leaf_fell -> keep_leaf = KEEP_LEAF(0)
      :: keep_leaf_fell -> keep_leaf = KEEP_LEAF(1)
      fi;
      exporter = (exporter_fell -> SYNCHRONISED : TENANT_EXPORTER(t))
    fi;
    if
    :: peer < KEEPS -> printf("session %d of the tenant ends at Keep %d\n", t, peer)
    :: else -> printf("session %d of the tenant ends at the attacker, who shows leaf %d, exporter %d\n", t, keep_leaf, exporter)
    fi
  }
}

inline leave(t) {
  closed[t] = true;
  his = his & (255 - (1 << t))   /* nobody waits for evidence over its challenge */
}

inline require_purpose(slot, why) {
  assert(slot != FREE_CHOICE && made_for[slot] == why);             /* no cross-purpose acceptance */
}

inline require_fresh(slot, t) {
  assert(answers[slot] == NONCE(t));                          /* made for this session's challenge */
}

proctype Tenant(byte d) {
  byte peer, keep_leaf, exporter, e, key, mine;

  /* Provision. */
  connect(d);
  atomic {
    if
    :: peer < KEEPS ->
      if
      :: said[d]?e, key -> if :: MATCHES(e, FOR_OFFER, exporter, keep_leaf, TENANT_LEAF(d), NONCE(d), key, 0) :: else -> goto over fi
      :: goto over
      fi
    :: else ->
      /* The HPKE key is his own, or one that a Keep offered. */
      if
      :: key = ATTACKER_HPKE
      :: key = HPKE(0, 0)
      :: key = HPKE(0, 1)
      :: key = HPKE(1, 0)
      :: key = HPKE(1, 1)
      fi;
      any_of_mine(e, FOR_OFFER, exporter, keep_leaf, TENANT_LEAF(d), NONCE(d), key, 0)
    fi;
    /* The offer is accepted, the release is sealed and sent. */
    printf("session %d accepts evidence %d as an offer, and seals release %d to HPKE key %d\n", d, e, RELEASE(d), key);
    assert(key != ATTACKER_HPKE);                             /* secrecy of the release */
    require_purpose(e, FOR_OFFER);
    require_fresh(e, d);
    sealed[d].hpke = key;
    sealed[d].exporter = BOUND_EXPORTER(exporter);
    sealed[d].keep_leaf = BOUND_KEEP_LEAF(keep_leaf);
    sealed[d].tenant_leaf = BOUND_TENANT_LEAF(TENANT_LEAF(d));
    sealed[d].challenge = BOUND_CHALLENGE(NONCE(d));
    sealed[d].made = true;
    if
    :: peer < KEEPS -> if :: sent[d]!true :: goto over fi     /* or the connection is cut before it arrives */
    :: else
    fi
  }
  atomic {
    if
    :: peer < KEEPS ->
      if
      :: said[d]?e, _ ->
        if
        :: MATCHES(e, FOR_RECEIPT, exporter, keep_leaf, TENANT_LEAF(d), NONCE(d), key, RECEIPT(RELEASE(d), TENANT_LEAF(d)))
        :: else -> goto over
        fi
      :: goto over
      fi
    :: else ->
      any_of_mine(e, FOR_RECEIPT, exporter, keep_leaf, TENANT_LEAF(d), NONCE(d), key, RECEIPT(RELEASE(d), TENANT_LEAF(d)))
    fi;
    printf("session %d accepts evidence %d as the receipt\n", d, e);
    require_purpose(e, FOR_RECEIPT);
#if FALLEN < 3
    /* Agreement on Keep and transcript: the other end is a genuine Keep, in this very connection; so stdin is secret too. */
    assert(peer < KEEPS && through[peer] == d);
    /* On tenant and package. */
    assert(running[peer] == RELEASE(d) && owner[peer] == TENANT_LEAF(d));
#endif
    assert(times_run[d] == 1);
    mine = peer;
    /* What nobody will look at any more is forgotten, here and below: states that differ in nothing else are one. */
    peer = 0; keep_leaf = 0; exporter = 0; e = 0; key = 0;
    leave(d)
  }

  /* Attach, from another terminal. */
  connect(2 + d);
  atomic {
    if
    :: peer < KEEPS ->
      if
      :: said[2 + d]?e, _ ->
        if
        :: MATCHES(e, FOR_ATTACH, exporter, keep_leaf, TENANT_LEAF(d), NONCE(2 + d), 0, RECEIPT(RELEASE(d), TENANT_LEAF(d)))
        :: else -> goto over
        fi
      :: goto over
      fi
    :: else ->
      any_of_mine(e, FOR_ATTACH, exporter, keep_leaf, TENANT_LEAF(d), NONCE(2 + d), 0, RECEIPT(RELEASE(d), TENANT_LEAF(d)))
    fi;
    printf("session %d accepts evidence %d as the attachment\n", 2 + d, e);
    require_purpose(e, FOR_ATTACH);
    require_fresh(e, 2 + d);
#if FALLEN < 3
    assert(peer < KEEPS && peer == mine && running[peer] == RELEASE(d));   /* agreement on attach */
#endif
    finished++;
#ifdef REACHABLE
    assert(finished < DEPLOYMENTS);
#endif
    if
    :: peer < KEEPS -> sent[2 + d]!true
    :: else
    fi
  }
over:
  atomic {
    leave(d);
    leave(2 + d);
    peer = 0; keep_leaf = 0; exporter = 0; e = 0; key = 0; mine = 0
  }
}

inline accept(nth) {
  /* The client is a tenant's session, or the attacker: with a tenant's leaf if he has its key, and with a challenge that
     waits for an answer if he has one. */
  if
  :: dial[k]?t -> tenant_leaf = TENANT_LEAF(t & 1); exporter = PIPE_EXPORTER(t); nonce = NONCE(t)
  :: (k == 0 || woken) ->        /* Keeps are alike: 0 is the one that served first */
    t = STRANGER;
    if
    :: !tenant_leaf_fell -> tenant_leaf = ATTACKER_LEAF
    :: tenant_leaf_fell -> tenant_leaf = TENANT_LEAF(0)
#ifdef DISTINCT_LEAVES
    :: tenant_leaf_fell -> tenant_leaf = TENANT_LEAF(1)
#endif
    fi;
    exporter = (exporter_fell -> SYNCHRONISED : KEEP_EXPORTER(k, nth));
    if
    :: his == 0 -> nonce = ATTACKER_NONCE
    :: his & 1 -> nonce = NONCE(0)
    :: his & 2 -> nonce = NONCE(1)
    :: his & 4 -> nonce = NONCE(2)
    :: his & 8 -> nonce = NONCE(3)
    fi
  fi;
  woken = true;
  if
  :: t == STRANGER ->
    printf("Keep %d has the attacker for a client: leaf %d, exporter %d, challenge %d\n", k, tenant_leaf, exporter, nonce)
  :: else
  fi
}

proctype Keep(byte k) {
  byte n, t, tenant_leaf, exporter, nonce, release;

  /* Empty: one session at a time, each with a fresh HPKE key. */
vacant:
  atomic {
    accept(n);
    printf("Keep %d makes evidence %d: an offer of HPKE key %d\n", k, OFFER_SLOT(k, n), HPKE(k, n));
    attest(OFFER_SLOT(k, n), FOR_OFFER, exporter, KEEP_LEAF(k), tenant_leaf, nonce, HPKE(k, n), 0);
    if
    :: t < STRANGER -> said[t]!OFFER_SLOT(k, n), HPKE(k, n)
    :: else
    fi
  }
  atomic {
    if
    :: t < STRANGER && t < DEPLOYMENTS && sent[t]?[true] ->
      sent[t]?_;
      if
      :: OPENS(t, HPKE(k, n), exporter, KEEP_LEAF(k), tenant_leaf, nonce) -> release = RELEASE(t)
      :: else -> goto unspent
      fi
    :: t < STRANGER && closed[t] -> goto unspent
    :: t == STRANGER ->
      if
      :: OPENS(0, HPKE(k, n), exporter, KEEP_LEAF(k), tenant_leaf, nonce) -> release = RELEASE(0)
      :: OPENS(1, HPKE(k, n), exporter, KEEP_LEAF(k), tenant_leaf, nonce) -> release = RELEASE(1)
      :: release = ATTACKER_RELEASE
      :: goto unspent
      fi
    fi;
    printf("Keep %d runs release %d\n", k, release);
    running[k] = release;
    owner[k] = tenant_leaf;
    through[k] = t;
    if
    :: release == ATTACKER_RELEASE -> attacker_runs = true
    :: else ->
      times_run[release - 1]++;
      assert(times_run[release - 1] == 1);                    /* a release runs once */
#if FALLEN < 3
      assert(t == release - 1)                                /* and only for the tenant who sealed it, in its session */
#endif
    fi;
    if
    :: tenant_leaf >= TENANT_LEAF(0) && !tenant_leaf_fell -> assert(t < DEPLOYMENTS && release == RELEASE(t))
    :: else
    fi;
#ifdef SECOND_PROVISION
    if
    :: made_for[RECEIPT_SLOT(k)] -> goto unspent              /* enough was shown: keep the first receipt's slot as it is */
    :: else
    fi;
#endif
    attest(RECEIPT_SLOT(k), FOR_RECEIPT, exporter, KEEP_LEAF(k), tenant_leaf, nonce, HPKE(k, n), RECEIPT(release, tenant_leaf));
    if
    :: t < STRANGER -> said[t]!RECEIPT_SLOT(k), 0
    :: else
    fi;
#ifdef SECOND_PROVISION
    if
    :: goto unspent
    :: true
    fi;
#endif
    n = 0; t = 0; tenant_leaf = 0; exporter = 0; nonce = 0; release = 0
  }
  goto provisioned;
unspent:
  atomic {
    n++; t = 0; tenant_leaf = 0; exporter = 0; nonce = 0;
    if
    :: n < EMPTY_SESSIONS -> goto vacant
    :: else -> goto over
    fi
  }

  /* Provisioned: `attach` only, and only for the leaf that provisioned it. */
provisioned:
  atomic {
    accept(EMPTY_SESSIONS + n);
    if
#ifdef ANY_ATTACH
    :: true ->
#else
    :: tenant_leaf == owner[k] ->
#endif
      printf("Keep %d makes evidence %d: an attachment\n", k, ATTACH_SLOT(k, n));
      attest(ATTACH_SLOT(k, n), FOR_ATTACH, exporter, KEEP_LEAF(k), tenant_leaf, nonce, 0, RECEIPT(running[k], owner[k]));
      if
      :: t < STRANGER -> said[t]!ATTACH_SLOT(k, n), 0
      :: else -> assert(tenant_leaf_fell || running[k] == ATTACKER_RELEASE)   /* control stays the tenant's */
      fi
    :: else
    fi;
    n++; t = 0; tenant_leaf = 0; exporter = 0; nonce = 0;
    if
    :: n < ATTACHES -> goto provisioned
    :: else
    fi
  }
over:
  atomic { n = 0; t = 0; tenant_leaf = 0; exporter = 0; nonce = 0; release = 0 }
}

init {
  atomic {
#if FALLEN >= 3
    exporter_fell = true; keep_leaf_fell = true; tenant_leaf_fell = true;
#elif FALLEN == 1
    if
    :: exporter_fell = true
    :: keep_leaf_fell = true
    :: tenant_leaf_fell = true
    fi;
#elif FALLEN == 2
    if
    :: exporter_fell = true; keep_leaf_fell = true
    :: exporter_fell = true; tenant_leaf_fell = true
    :: keep_leaf_fell = true; tenant_leaf_fell = true
    fi;
#endif
    printf("fallen: exporters %d, the Keeps' leaf keys %d, the tenants' %d\n", exporter_fell, keep_leaf_fell, tenant_leaf_fell);
    run Keep(0);
    run Keep(1);
    run Tenant(0);
    run Tenant(1)
  }
}
