/* SPDX-License-Identifier: Apache-2.0
 *
 * How a Keep gets a certificate of a Steward: what evidence of purpose `identity` is over, and what that is worth to those who
 * meet the certificate. README.md beside this file says what is left out, and how each mutant falls.
 *
 * The attacker is a tenant of genuine Keeps, which trust the Steward or a root of his own, as he says. To those of his own
 * root he is the Steward and chooses their nonces. He carries everything for everybody, and knows every nonce, all evidence
 * and every request for a certificate as it is made. So he can hand in whatever was ever made, in any combination. What the
 * Steward would refuse he does not hand in: a refusal changes nothing.
 *
 * Switches: -D of a mutant takes one thing away (NO_ROOT NO_SPKI NO_NONCE NO_PURPOSE NO_IDENTITY from what evidence is over,
 * NONCE_AGAIN what the Steward remembers); TENANT_FELL, the attacker has the honest tenant's key and deploys in its name;
 * CHANNEL_FELL, he chooses the nonces of all Keeps; REACHABLE asserts that the honest Keep never renews.
 */

/* --- names: small numbers; 0 is "nothing", and what a mutant leaves out of a binding */

#define KEEPS 3                  /* 0 is the honest tenant's; 1 and 2 are the attacker's */
#define REQUESTS 2               /* of a Keep: the first certificate, and its renewal */
#define NONCES 3                 /* that the Steward gives out */

#define STEWARD_ROOT 1
#define ATTACKER_ROOT 2

/* An identity record names package, configuration and tenant, and no root. */
#define HONEST_IDENTITY 1
#define ATTACKER_IDENTITY 2      /* a public package with nothing added, for instance, to which the Steward grants names too */

#define ATTACKER_KEY 1
#define KEY(k, n) (2 + SLOT(k, n))

#define FOR_IDENTITY 1

/* --- what evidence is over */

#ifdef NO_PURPOSE
#define BOUND_PURPOSE(v) 0
#else
#define BOUND_PURPOSE(v) (v)
#endif
#ifdef NO_NONCE
#define BOUND_NONCE(v) 0
#else
#define BOUND_NONCE(v) (v)
#endif
#ifdef NO_SPKI
#define BOUND_KEY(v) 0
#else
#define BOUND_KEY(v) (v)
#endif
#ifdef NO_IDENTITY
#define BOUND_IDENTITY(v) 0
#else
#define BOUND_IDENTITY(v) (v)
#endif
#ifdef NO_ROOT
#define BOUND_ROOT(v) 0
#else
#define BOUND_ROOT(v) (v)
#endif

#define SLOT(k, n) (REQUESTS * (k) + (n))
#define SLOTS 6
#define FREE_CHOICE SLOTS        /* evidence of another purpose: the attacker says over what */

typedef Binding {
  byte purpose;
  byte nonce;
  byte key;
  byte identity;
  byte root;
}
Binding evidence[SLOTS];
byte answers[SLOTS];             /* the nonce, whatever is bound; 0: not made yet */

#define MATCHES(e, nonce_, key_, identity_) \
  (answers[e] && evidence[e].purpose == BOUND_PURPOSE(FOR_IDENTITY) && evidence[e].nonce == BOUND_NONCE(nonce_) && \
   evidence[e].key == BOUND_KEY(key_) && evidence[e].identity == BOUND_IDENTITY(identity_) && \
   evidence[e].root == BOUND_ROOT(STEWARD_ROOT))

/* --- what there is */

byte identity[KEEPS];            /* what each runs, and for whom */
byte trusts[KEEPS];              /* the root by which it judges its peers */
byte given;                      /* nonces that the Steward gave out: 1 to `given` */
byte used[4];                    /* by nonce: certificates that it was good for */
byte renewed;                    /* certificates of the honest Keep, in its own hand */

#ifdef NONCE_AGAIN
#define IS_OURS(nonce_) ((nonce_) >= 1 && (nonce_) <= given && used[nonce_] < 2)
#else
#define IS_OURS(nonce_) ((nonce_) >= 1 && (nonce_) <= given && used[nonce_] == 0)
#endif

inline issue(e, nonce_, key_, identity_) {
  /* The Steward gives a certificate; what it means is asserted here. */
  printf("the Steward certifies key %d for identity %d, on evidence %d and nonce %d\n", key_, identity_, e, nonce_);
  used[nonce_]++;
  assert(used[nonce_] == 1);                                /* a nonce is used once */
  assert(e != FREE_CHOICE);                                 /* no cross-purpose acceptance */
  assert(answers[e] == nonce_);                             /* evidence is fresh */
  assert(key_ != ATTACKER_KEY);                             /* the key is a genuine Keep's, */
  holder = (key_ - 2) / REQUESTS;
  assert(identity[holder] == identity_);                    /* which has that identity, */
  assert(trusts[holder] == STEWARD_ROOT);                   /* and judges its peers by that root */
  holder = 0
}

proctype Keep(byte k) {
  byte n, nonce, holder;

again:
  atomic {
    /* A nonce: of the Steward, in a channel that ends there; or of whoever has that channel. */
    if
    :: trusts[k] == STEWARD_ROOT && given < NONCES -> given++; nonce = given
#ifdef CHANNEL_FELL
    :: given >= 1 -> nonce = 1
    :: given >= 2 -> nonce = 2
    :: given >= 3 -> nonce = 3
#else
    :: trusts[k] == ATTACKER_ROOT && given >= 1 -> nonce = 1
    :: trusts[k] == ATTACKER_ROOT && given >= 2 -> nonce = 2
    :: trusts[k] == ATTACKER_ROOT && given >= 3 -> nonce = 3
#endif
    fi;
    printf("Keep %d, which trusts root %d, makes evidence %d: key %d, nonce %d\n", k, trusts[k], SLOT(k, n), KEY(k, n), nonce);
    evidence[SLOT(k, n)].purpose = BOUND_PURPOSE(FOR_IDENTITY);
    evidence[SLOT(k, n)].nonce = BOUND_NONCE(nonce);
    evidence[SLOT(k, n)].key = BOUND_KEY(KEY(k, n));
    evidence[SLOT(k, n)].identity = BOUND_IDENTITY(identity[k]);
    evidence[SLOT(k, n)].root = BOUND_ROOT(trusts[k]);
    answers[SLOT(k, n)] = nonce
  }
  atomic {
    /* It asks, or is cut off. What the attacker's root would certify is nothing to anybody else. */
    if
    :: trusts[k] == STEWARD_ROOT && IS_OURS(nonce) && MATCHES(SLOT(k, n), nonce, KEY(k, n), identity[k]) ->
      issue(SLOT(k, n), nonce, KEY(k, n), identity[k]);
      if
      :: k == 0 ->
        renewed++;
#ifdef REACHABLE
        assert(renewed < REQUESTS)
#endif
      :: else
      fi
    :: true
    fi;
    n++;
    nonce = 0;
    if
    :: n < REQUESTS -> goto again
    :: else -> n = 0
    fi
  }
}

proctype Attacker() {
  byte e, key, nonce, whose, holder;

  do
  :: atomic { given < NONCES -> given++; printf("the attacker is given nonce %d\n", given) }
  :: atomic {
      /* He hands in a request: evidence that was made, for a key whose request he has, or for his own. */
      select(nonce : 1 .. NONCES);
      if
      :: IS_OURS(nonce)
      :: else -> goto refused
      fi;
      select(e : 0 .. SLOTS);
      if
      :: e < SLOTS && answers[e]
#ifdef NO_PURPOSE
      :: e == FREE_CHOICE
#endif
      :: else -> goto refused
      fi;
      select(key : 0 .. SLOTS);
      select(whose : HONEST_IDENTITY .. ATTACKER_IDENTITY);
      if
      :: key == 0 -> key = ATTACKER_KEY
      :: key > 0 && answers[key - 1] -> key = key + 1
      :: else -> goto refused
      fi;
      if
      :: e < SLOTS && MATCHES(e, nonce, key, whose) -> issue(e, nonce, key, whose)
#ifdef NO_PURPOSE
      :: e == FREE_CHOICE -> issue(e, nonce, key, whose)
#endif
      :: else                    /* a refusal, which leaves everything as it was */
      fi;
refused:
      e = 0; key = 0; nonce = 0; whose = 0
    }
  od
}

init {
  atomic {
    identity[0] = HONEST_IDENTITY;
    trusts[0] = STEWARD_ROOT;
    /* One of his Keeps trusts the Steward and the other does not, which is all that there is to choose. */
    trusts[1] = STEWARD_ROOT;
    trusts[2] = ATTACKER_ROOT;
    identity[1] = ATTACKER_IDENTITY;
    identity[2] = ATTACKER_IDENTITY;
#ifdef TENANT_FELL
    if
    :: true
    :: identity[1] = HONEST_IDENTITY
    :: identity[2] = HONEST_IDENTITY
    :: identity[1] = HONEST_IDENTITY; identity[2] = HONEST_IDENTITY
    fi;
#endif
    printf("fallen: identities are %d, %d and %d, roots %d, %d and %d\n",
      identity[0], identity[1], identity[2], trusts[0], trusts[1], trusts[2]);
    run Keep(0);
    run Keep(1);
    run Keep(2);
    run Attacker()
  }
}
