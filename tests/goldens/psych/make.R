# Simulates response data and computes what R's psych, lavaan and lme4 find in them.
#
#   apt-get install r-base-core r-cran-psych r-cran-lavaan r-cran-lme4 r-cran-gparotation r-cran-jsonlite
#   cd tests/goldens/psych && Rscript make.R
#
# Writes the data as CSV and the values as r_values.json, both beside this file. The data are written and read
# again before anything is computed, so that R sees exactly what the tests see.
suppressMessages({library(psych); library(lavaan); library(lme4); library(jsonlite)})
set.seed(20260404, kind = "Mersenne-Twister", normal.kind = "Inversion", sample.kind = "Rejection")

stored <- function(data, name) {
  write.csv(data, paste0(name, ".csv"), row.names = FALSE, quote = FALSE)
  read.csv(paste0(name, ".csv"))
}
table_of <- function(m) {
  m <- unclass(as.matrix(m))
  list(rows = rownames(m), cols = colnames(m), values = unname(m))
}
quietly <- function(x) suppressMessages(suppressWarnings(x))

# ---- Questionnaires: 400 people, three scales on five categories ----------------------------------------------
# warmth: one factor, 5 items. order: one factor, 6 items. drive: a general factor and three facets of 3 items.
KEYS <- list(warmth = c("-W1", "W2", "W3", "-W4", "W5"),
             order = c("O1", "-O2", "O3", "O4", "-O5", "O6"),
             drive = c("D1", "D2", "-D3", "D4", "-D5", "D6", "D7", "-D8", "D9"))
LOW <- 1
HIGH <- 5
N <- 400
common <- rnorm(N)
trait <- sapply(1:3, function(i) sqrt(.25) * common + sqrt(.75) * rnorm(N))
facet <- matrix(rnorm(N * 3), N)
loading <- list(c(.45, .7, .8, .55, .6), c(.5, .65, .7, .6, .75, .4), rep(c(.6, .5, .55), 3))
simulated <- list()
for (s in 1:3) {
  for (i in seq_along(KEYS[[s]])) {
    key <- KEYS[[s]][i]
    l <- loading[[s]][i]
    g <- if (s == 3) .5 else 0
    score <- l * trait[, s] + g * facet[, (i - 1) %/% 3 + 1] + sqrt(1 - l^2 - g^2) * rnorm(N)
    if (startsWith(key, "-")) score <- -score
    cuts <- c(-1.4, -.5, .3, 1.2) + runif(1, -.3, .3)
    simulated[[sub("-", "", key)]] <- findInterval(score, cuts) + 1
  }
}
simulated <- as.data.frame(simulated)
for (j in seq_along(simulated)) simulated[sample(N, 4), j] <- NA  # refusals
raw <- stored(simulated, "responses")

keyed <- function(scale) {
  columns <- lapply(KEYS[[scale]], function(key) {
    x <- raw[[sub("-", "", key)]]
    if (startsWith(key, "-")) LOW + HIGH - x else x
  })
  names(columns) <- sub("-", "", KEYS[[scale]])
  as.data.frame(columns)
}

one_factor <- function(x) {
  fitted <- cfa(paste("f =~", paste(names(x), collapse = "+")), x, std.lv = TRUE)
  estimates <- parameterEstimates(fitted, standardized = TRUE)
  loads <- estimates[estimates$op == "=~", ]
  residual <- estimates[estimates$op == "~~" & estimates$lhs == estimates$rhs & estimates$lhs != "f", ]
  sign <- sign(sum(loads$est))
  squared <- sum(loads$est)^2
  std_residual <- 1 - loads$std.all^2
  n <- nobs(fitted)
  list(n = n,
       omega_total_cfa_raw = squared / (squared + sum(residual$est)),
       omega_observed_var = squared / sum(cov(x) * (n - 1) / n),
       omega_total_std = sum(loads$std.all)^2 / (sum(loads$std.all)^2 + sum(std_residual)),
       loadings_unstd = as.list(setNames(sign * loads$est, loads$rhs)),
       loadings_std = as.list(setNames(sign * loads$std.all, loads$rhs)),
       residual_var = as.list(setNames(residual$est, residual$lhs)),
       fit = as.list(fitMeasures(fitted, c("chisq", "df", "pvalue", "cfi", "tli", "rmsea", "rmsea.ci.lower",
                                           "rmsea.ci.upper", "srmr", "aic", "bic"))))
}

guttman_bounds <- function(m, lambda4) {
  k <- ncol(m)
  total <- sum(m)
  off <- m - diag(diag(m))
  l1 <- 1 - sum(diag(m)) / total
  list(lambda1 = l1,
       lambda2 = l1 + sqrt(k / (k - 1) * sum(off^2)) / total,
       lambda3 = k / (k - 1) * l1,
       lambda4 = lambda4,
       lambda5 = l1 + 2 * sqrt(max(colSums(off^2))) / total,
       lambda6 = 1 - sum(diag(m) * (1 - smc(cov2cor(m)))) / total)
}

consistency <- function(scale) {
  x <- na.omit(keyed(scale))
  k <- ncol(x)
  found <- quietly(alpha(x, check.keys = FALSE))
  total <- found$total
  drop <- found$alpha.drop
  stats <- found$item.stats
  items <- names(x)
  named <- function(v) as.list(setNames(v, items))
  R <- cor(x)
  C <- cov(x)
  std <- quietly(splitHalf(R, raw = TRUE, covar = FALSE))
  covar <- quietly(splitHalf(x, raw = TRUE, covar = TRUE))
  odd <- rowSums(x[, seq(1, k, 2), drop = FALSE])
  even <- rowSums(x[, seq(2, k, 2), drop = FALSE])
  r <- cor(odd, even)
  feldt <- alpha.ci(total$raw_alpha, n.obs = nrow(x), n.var = k)
  nf1 <- quietly(omega(R, nfactors = 1, n.obs = nrow(x), plot = FALSE))
  list(
    n = nrow(x), k = k, raw_alpha = total$raw_alpha, std_alpha = total$std.alpha,
    lambda6_smc = total[["G6(smc)"]], average_r = total$average_r, median_r = total$median_r,
    signal_to_noise = total[["S/N"]], ase = total$ase, mean_of_item_means = total$mean,
    sd_of_scale_mean = total$sd, feldt_ci95 = c(feldt$lower.ci, feldt$upper.ci),
    duhachek_ci95 = total$raw_alpha + c(-1.96, 1.96) * total$ase,
    alpha_if_dropped = named(drop$raw_alpha), std_alpha_if_dropped = named(drop$std.alpha),
    item_total_r_raw = named(stats$raw.r), item_total_r_cor = named(stats$r.cor),
    item_rest_r_drop = named(stats$r.drop), item_mean = named(stats$mean), item_sd = named(stats$sd),
    sum_score_variance = sum(C), sem_sum_score_alpha = sqrt(sum(C) * (1 - total$raw_alpha)),
    guttman_std = guttman_bounds(R, std$maxrb), lambda2_raw = guttman_bounds(C, NA)$lambda2,
    lambda6_std_formula = guttman_bounds(R, NA)$lambda6, lambda6_raw_formula = guttman_bounds(C, NA)$lambda6,
    split_half_all_std = list(max = std$maxrb, min_beta = std$minrb, mean = std$meanr,
                              quantiles = unname(quantile(std$raw, c(.025, .5, .975))),
                              n_splits = length(std$raw)),
    split_half_all_covar = list(max = covar$maxrb, min_beta = covar$minrb, mean = covar$meanr),
    odd_even = list(r = r, spearman_brown = 2 * r / (1 + r),
                    flanagan_rulon = 2 * (1 - (var(odd) + var(even)) / sum(C))),
    cfa1 = one_factor(x),
    psych_omega_nf1 = list(omega_total = nf1$omega.tot, alpha = nf1$alpha, G6 = nf1$G6))
}

pairwise <- function(scale) {
  x <- keyed(scale)
  total <- quietly(alpha(x, check.keys = FALSE))$total
  list(n_rows = nrow(x), raw_alpha = total$raw_alpha, std_alpha = total$std.alpha,
       lambda6 = total[["G6(smc)"]], average_r = total$average_r, ase = total$ase, mean = total$mean,
       sd = total$sd)
}

scales <- sapply(names(KEYS), consistency, simplify = FALSE)
# three facets are there to be found: three group factors are no over-factoring
x <- na.omit(keyed("drive"))
facets <- quietly(omega(x, nfactors = 3, fm = "minres", rotate = "oblimin", plot = FALSE))
scales$drive$psych_omega_nf3 <- list(omega_h = facets$omega_h, omega_total = facets$omega.tot,
                                     omega_lim = facets$omega.lim, alpha = facets$alpha, G6 = facets$G6)

everything <- na.omit(do.call(cbind, unname(lapply(names(KEYS), keyed))))
together <- quietly(omega(everything, nfactors = 3, fm = "minres", rotate = "oblimin", plot = FALSE))

complete <- na.omit(raw)
extract <- function(rotate) {
  found <- quietly(fa(complete, nfactors = 5, rotate = rotate, fm = "minres"))
  result <- list(loadings = table_of(found$loadings), communality = as.list(found$communality),
                 chisq_stat = found$STATISTIC, dof = found$dof, p = found$PVAL,
                 RMSEA = as.list(found$RMSEA), TLI = found$TLI, BIC = found$BIC, rms = found$rms,
                 ss = table_of(found$Vaccounted))
  if (rotate == "oblimin") result$Phi <- table_of(found$Phi)
  result
}
kmo <- KMO(complete)
bartlett <- cortest.bartlett(cor(complete), n = nrow(complete))
grDevices::pdf(NULL)
parallel <- quietly(fa.parallel(complete, fm = "minres", fa = "both", n.iter = 50, quant = .95, plot = FALSE))
map <- quietly(VSS(complete, n = 8, plot = FALSE))$map
factors <- list(
  n = nrow(complete), n_factors = 5, eigenvalues = eigen(cor(complete))$values,
  kmo = list(MSA = kmo$MSA, MSAi = as.list(kmo$MSAi)),
  bartlett = list(chisq = bartlett$chisq, df = bartlett$df, p = bartlett$p.value),
  none = extract("none"), varimax = extract("varimax"), oblimin = extract("oblimin"),
  velicer_map = map, map_min_at = which.min(map),
  parallel = list(nfact = parallel$nfact, ncomp = parallel$ncomp, fa_values = parallel$fa.values,
                  pc_values = parallel$pc.values))

# ---- Response style, by definition ------------------------------------------------------------------------
key_of <- setNames(ifelse(startsWith(unlist(KEYS), "-"), -1, 1), sub("-", "", unlist(KEYS)))
key <- key_of[names(complete)]
middle <- (LOW + HIGH) / 2
m <- as.matrix(complete)
style <- list(
  ARS = rowMeans((m - LOW) / (HIGH - LOW)), ARS_prop = rowMeans(m > middle) - rowMeans(m < middle),
  ERS = rowMeans(m == LOW | m == HIGH), MRS = rowMeans(m == middle), IRV = apply(m, 1, sd),
  longstring = apply(m, 1, function(row) max(rle(row)$lengths)),
  ARS_balanced = (rowMeans(m[, key == 1]) + rowMeans(m[, key == -1])) / 2 - middle)
forward_reverse <- sapply(names(KEYS), function(scale) {
  x <- na.omit(raw[sub("-", "", KEYS[[scale]])])
  k <- key_of[names(x)]
  list(n = nrow(x), forward_reverse_r_raw = cor(rowMeans(x[k == 1]), rowMeans(x[k == -1])))
}, simplify = FALSE)

# ---- Confirmatory models ------------------------------------------------------------------------------------
confirm <- function(model, data) {
  fitted <- cfa(model, data)
  params <- parameterEstimates(fitted, standardized = TRUE)[c("lhs", "op", "rhs", "est", "se", "std.all")]
  names(params)[6] <- "std_all"
  list(model = model, n = nobs(fitted), params = params,
       fit = as.list(fitMeasures(fitted, c(
         "npar", "chisq", "df", "pvalue", "baseline.chisq", "baseline.df", "cfi", "tli", "nfi", "rmsea",
         "rmsea.ci.lower", "rmsea.ci.upper", "rmsea.pvalue", "srmr", "logl", "aic", "bic", "gfi", "agfi"))))
}
scales_model <- paste(sapply(names(KEYS), function(s)
  paste(s, "=~", paste(sub("-", "", KEYS[[s]]), collapse = "+"))), collapse = "\n")

n <- 250
base <- rnorm(n)
ability <- sapply(1:3, function(i) sqrt(.4) * base + sqrt(.6) * rnorm(n))
scores <- sapply(1:9, function(i) 5 + c(.8, .5, .7)[(i - 1) %% 3 + 1] * ability[, (i - 1) %/% 3 + 1] * 1.2 + rnorm(n))
colnames(scores) <- paste0("x", 1:9)
abilities <- stored(as.data.frame(round(scores, 3)), "abilities")

# ---- Agreement and retest -----------------------------------------------------------------------------------
n <- 60
state <- rnorm(n, 40, 9)
occasions <- stored(data.frame(t1 = round(state + rnorm(n, 0, 4)), t2 = round(state + 2 + rnorm(n, 0, 4))), "retest")
icc_of <- function(x) {
  found <- ICC(x, lmer = FALSE)
  rows <- found$results
  names(rows) <- c("type", "ICC", "F", "df1", "df2", "p", "lower95", "upper95")
  list(table = rows, n_subjects = nrow(x), n_judges = ncol(x), MSW = found$MSW)
}
retest_of <- function(t1, t2) {
  test <- t.test(t1, t2, paired = TRUE)
  r <- cor.test(t1, t2)
  d <- t1 - t2
  typical <- sd(d) / sqrt(2)
  list(n = length(t1), r = unname(r$estimate), r_ci95 = r$conf.int, paired_t = unname(test$statistic),
       df = unname(test$parameter), p = test$p.value,
       SEM_pooledSD = sqrt((var(t1) + var(t2)) / 2) * sqrt(1 - r$estimate[[1]]), typical_error = typical,
       SDC95_from_typical_error = 1.96 * sqrt(2) * typical,
       bland_altman = list(bias = mean(d), lower = mean(d) - 1.96 * sd(d), upper = mean(d) + 1.96 * sd(d)),
       icc = icc_of(data.frame(t1, t2)))
}
bound <- 3
paired_tost <- list(bound = bound, dof = nrow(occasions) - 1, pval = max(
  t.test(occasions$t1, occasions$t2, paired = TRUE, mu = -bound, alternative = "greater")$p.value,
  t.test(occasions$t1, occasions$t2, paired = TRUE, mu = bound, alternative = "less")$p.value))

# ---- Generalizability ---------------------------------------------------------------------------------------
components_of <- function(fitted) {
  found <- as.data.frame(VarCorr(fitted))
  as.list(setNames(found$vcov, found$grp))
}
strict <- lmerControl(optimizer = "bobyqa", optCtrl = list(rhobeg = .01, rhoend = 1e-9, maxfun = 1e5))
effects_of <- function(formula, data) {
  found <- summary(aov(formula, data))[[1]]
  names <- trimws(rownames(found))
  list(ms = setNames(as.list(found[["Mean Sq"]]), names), df = setNames(as.list(found$Df), names))
}

# persons x (raters within tasks)
d <- expand.grid(Rater = 1:4, Task = 1:3, Person = 1:12)
pt <- matrix(rnorm(12 * 3, 0, .7), 12)
rt <- matrix(rnorm(4 * 3, 0, .8), 4)
p <- rnorm(12, 0, .9)
t <- rnorm(3, 0, .6)
d$Score <- round(5 + p[d$Person] + t[d$Task] + pt[cbind(d$Person, d$Task)] + rt[cbind(d$Rater, d$Task)] +
                   rnorm(nrow(d), 0, 1.3), 2)
d <- stored(d, "persons_by_raters_in_tasks")
f <- transform(d, Person = factor(Person), Task = factor(Task), RT = factor(paste(Rater, Task)))
found <- effects_of(Score ~ Person + Task + RT + Person:Task, f)
ms <- found$ms
n_p <- 12; n_t <- 3; n_r <- 4
anova <- list(p = (ms$Person - ms[["Person:Task"]]) / (n_t * n_r),
              t = (ms$Task - ms$RT - ms[["Person:Task"]] + ms$Residuals) / (n_p * n_r),
              r_t = (ms$RT - ms$Residuals) / n_p, pt = (ms[["Person:Task"]] - ms$Residuals) / n_r,
              pr_t = ms$Residuals)
nested <- list(
  mean_squares = ms, df = found$df, anova_components = anova,
  lme4_reml = components_of(lmer(Score ~ (1 | Person) + (1 | Task) + (1 | RT) + (1 | Person:Task), f, control = strict)),
  dstudy = lapply(list(c(3, 4), c(1, 1), c(5, 2), c(10, 4)), function(n) {
    a <- lapply(anova, max, 0)
    rel <- a$pt / n[1] + a$pr_t / (n[1] * n[2])
    abs <- rel + a$t / n[1] + a$r_t / (n[1] * n[2])
    list(n_t = n[1], n_r = n[2], rel_err = rel, abs_err = abs, Erho2 = a$p / (a$p + rel), Phi = a$p / (a$p + abs))
  }))

# persons x items x occasions, crossed; then the same with scores missing
d <- expand.grid(p = 1:20, i = 1:8, o = 1:4)
draw <- function(sd, ...) array(rnorm(prod(...), 0, sd), c(...))
p <- draw(.85, 20); i <- draw(.4, 8); pi_ <- draw(.55, c(20, 8)); po <- draw(.3, c(20, 4)); io <- draw(.25, c(8, 4))
d$y <- round(3 + p[d$p] + i[d$i] + pi_[cbind(d$p, d$i)] + po[cbind(d$p, d$o)] + io[cbind(d$i, d$o)] +
               rnorm(nrow(d), 0, .8), 3)
d <- stored(d, "persons_by_items_by_occasions")
f <- transform(d, p = factor(p), i = factor(i), o = factor(o))
found <- effects_of(y ~ p + i + o + p:i + p:o + i:o, f)
names(found$ms)[names(found$ms) == "Residuals"] <- "p:i:o"
names(found$df)[names(found$df) == "Residuals"] <- "p:i:o"
ms <- found$ms
e <- ms[["p:i:o"]]
raw_components <- list(
  p = (ms$p - ms[["p:i"]] - ms[["p:o"]] + e) / 32, i = (ms$i - ms[["p:i"]] - ms[["i:o"]] + e) / 80,
  o = (ms$o - ms[["p:o"]] - ms[["i:o"]] + e) / 160, pi = (ms[["p:i"]] - e) / 4, po = (ms[["p:o"]] - e) / 8,
  io = (ms[["i:o"]] - e) / 20, pio_e = e)
cut <- lapply(raw_components, max, 0)
three_way <- y ~ (1 | p) + (1 | i) + (1 | o) + (1 | p:i) + (1 | p:o) + (1 | i:o)
crossed <- list(
  n = c(20, 8, 4), MS = ms, df = found$df, ems_components_untruncated = raw_components, truncated_at_zero = cut,
  lme4_reml = components_of(quietly(lmer(three_way, f, control = strict))),
  dstudy = lapply(list(c(8, 4), c(1, 1), c(4, 2), c(16, 4)), function(n) {
    rel <- cut$pi / n[1] + cut$po / n[2] + cut$pio_e / (n[1] * n[2])
    abs <- rel + cut$i / n[1] + cut$o / n[2] + cut$io / (n[1] * n[2])
    list(n_i = n[1], n_o = n[2], rel_err = rel, abs_err = abs, Erho2 = cut$p / (cut$p + rel),
         Phi = cut$p / (cut$p + abs))
  }))
missing <- seq(3, nrow(f), by = 5)  # a fifth of the scores; also persons 1 to 4 lack two items
gone <- union(missing, which(as.integer(f$p) <= 4 & as.integer(f$i) >= 7))
unbalanced <- list(left_out = gone - 1, n = nrow(f) - length(gone),
                   lme4_reml = components_of(quietly(lmer(three_way, f[-gone, ], control = strict))),
                   two_facets = components_of(quietly(lmer(y ~ (1 | p) + (1 | i), f[-gone, ][f$o[-gone] == 1, ],
                                                           control = strict))))

# ---- Multitrait-multimethod ----------------------------------------------------------------------------------
n <- 300
traits <- sapply(1:3, function(j) rnorm(n))
methods <- sapply(1:3, function(j) rnorm(n))
columns <- expand.grid(trait = c("A", "B", "C"), method = 1:3)
measured <- sapply(1:9, function(j) {
  t <- as.integer(columns$trait[j])
  m <- columns$method[j]
  c(.7, .6, .8)[t] * traits[, t] + c(.6, .9, .75)[m] * methods[, m] + rnorm(n, 0, .6)
})
colnames(measured) <- paste0(columns$trait, columns$method)
R <- round(cor(measured), 3)
reliability <- c(.85, .8, .9, .88, .79, .91, .86, .82, .87)
diag(R) <- reliability
write.csv(R, "multitrait_multimethod.csv", quote = FALSE)
t_of <- columns$trait
m_of <- columns$method
pairs <- which(upper.tri(R), arr.ind = TRUE)
kind <- ifelse(t_of[pairs[, 1]] == t_of[pairs[, 2]], "convergent",
               ifelse(m_of[pairs[, 1]] == m_of[pairs[, 2]], "hetero_mono", "hetero_hetero"))
r_of <- R[pairs]
second <- third <- c(0, 0)
for (row in which(kind == "convergent")) {
  a <- pairs[row, 1]; b <- pairs[row, 2]
  for (other in 1:9) if (t_of[other] != t_of[a]) {
    # the other trait in either variable's place: against the variable of the other method, and of its own
    if (m_of[other] == m_of[b]) {
      second <- second + c(R[a, b] > R[a, other], 1)
      third <- third + c(R[a, b] > R[b, other], 1)
    } else if (m_of[other] == m_of[a]) {
      second <- second + c(R[a, b] > R[b, other], 1)
      third <- third + c(R[a, b] > R[a, other], 1)
    }
  }
}
# criterion 4: Kendall's W of the blocks' rankings of the pairs of traits, both triangles of a block averaged
block_of <- paste(pmin(m_of[pairs[, 1]], m_of[pairs[, 2]]), pmax(m_of[pairs[, 1]], m_of[pairs[, 2]]))
traits_of <- apply(cbind(as.character(t_of)[pairs[, 1]], as.character(t_of)[pairs[, 2]]), 1, function(v) paste(sort(v), collapse = ""))
hetero <- kind != "convergent"
means <- tapply(r_of[hetero], list(block_of[hetero], traits_of[hetero]), mean)
ranked <- t(apply(means, 1, rank))
sums <- colSums(ranked)
kendall_w <- 12 * sum((sums - mean(sums))^2) / (nrow(ranked)^2 * (ncol(ranked)^3 - ncol(ranked)))
mtmm <- list(
  same_pattern = kendall_w,
  mean_convergent = mean(r_of[kind == "convergent"]), mean_hetero_trait_mono_method = mean(r_of[kind == "hetero_mono"]),
  mean_hetero_trait_hetero_method = mean(r_of[kind == "hetero_hetero"]),
  n = c(sum(kind == "convergent"), sum(kind == "hetero_mono"), sum(kind == "hetero_hetero")),
  convergent = r_of[kind == "convergent"],
  criterion2_convergent_gt_htHm = list(pass = second[1], total = second[2]),
  criterion3_convergent_gt_htMm = list(pass = third[1], total = third[2]),
  reliability_diag = reliability, disattenuated_A1A2 = R["A1", "A2"] / sqrt(R["A1", "A1"] * R["A2", "A2"]))

# ---- Ordinal items, correlations and comparisons --------------------------------------------------------------
ordinal <- na.omit(raw[sub("-", "", KEYS$order)])
poly <- quietly(polychoric(ordinal))
turned <- as.data.frame(Map(function(key, x) if (startsWith(key, "-")) LOW + HIGH - x else x, KEYS$order, ordinal))
names(turned) <- names(ordinal)
ordinal_alpha <- quietly(alpha(polychoric(turned)$rho))$total$std.alpha

mean_of <- function(scale) rowMeans(keyed(scale))
pair <- na.omit(data.frame(a = mean_of("warmth"), b = mean_of("drive")))
r <- cor.test(pair$a, pair$b)
group <- rep(c(1, 2), c(280, 120))
split <- list(na.omit(mean_of("order")[group == 1]), na.omit(mean_of("order")[group == 2]))
welch <- t.test(split[[1]], split[[2]])
sizes <- sapply(split, length); sds <- sapply(split, sd); means <- sapply(split, mean)
pooled <- function(s, n) sqrt(sum((n - 1) * s^2) / (sum(n) - 2))

from_summary <- function(m, s, n) {  # Welch's and Student's test of two groups given by mean, SD and size
  v <- s^2 / n
  se <- sqrt(sum(v))
  df <- sum(v)^2 / sum(v^2 / (n - 1))
  sp <- pooled(s, n)
  list(diff = m[1] - m[2], se = se, df = df, t = (m[1] - m[2]) / se, sp = sp,
       student = (m[1] - m[2]) / (sp * sqrt(sum(1 / n))), d = (m[1] - m[2]) / sp)
}
two_sided <- function(t, df) 2 * pt(-abs(t), df)
# Lakens 2017, the study of Eskine: published means, SDs and sizes
w <- from_summary(c(5.25, 5.22), c(.95, .83), c(95, 89))
b <- .43 * sqrt((.95^2 + .83^2) / 2)
tost <- list(low = -b, high = b, df = w$df, se = w$se, t_lower = (w$diff + b) / w$se, t_upper = (w$diff - b) / w$se,
             t_nhst = w$t, p_nhst = two_sided(w$t, w$df), ci90 = w$diff + c(-1, 1) * qt(.95, w$df) * w$se,
             ci95 = w$diff + c(-1, 1) * qt(.975, w$df) * w$se)
tost$p_lower <- pt(tost$t_lower, w$df, lower.tail = FALSE)
tost$p_upper <- pt(tost$t_upper, w$df)
tost$p_tost <- max(tost$p_lower, tost$p_upper)
# a model of 10 runs against 693 people
w2 <- from_summary(c(13.9, 12.51), c(4.3, 6), c(10, 693))
df <- 10 + 693 - 2
norm_compare <- list(
  inputs = list(llm = c(13.9, 4.3, 10), human_male = c(12.51, 6, 693)),
  welch_t = w2$t, welch_df = w2$df, welch_p = two_sided(w2$t, w2$df), student_t = w2$student,
  student_p = two_sided(w2$student, df), F = 6^2 / 4.3^2, cohens_d_pooled = w2$d,
  hedges_g_approxJ = w2$d * (1 - 3 / (4 * df - 1)),
  hedges_g_exactJ = w2$d * exp(lgamma(df / 2) - log(sqrt(df / 2)) - lgamma((df - 1) / 2)),
  glass_delta_human_sd = (13.9 - 12.51) / 6)

# Krippendorff's alpha from the coincidence matrix, on the data of his 2011 paper: 4 coders, 12 units
coders <- matrix(c(1, 2, 3, 3, 2, 1, 4, 1, 2, NA, NA, NA, 1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NA, 3,
                   NA, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NA, 1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NA), 4, byrow = TRUE)
krippendorff <- function(level) {
  values <- sort(unique(na.omit(c(coders))))
  o <- matrix(0, length(values), length(values))
  for (u in 1:ncol(coders)) {
    v <- match(na.omit(coders[, u]), values)
    if (length(v) > 1) for (i in seq_along(v)) for (j in seq_along(v)) if (i != j)
      o[v[i], v[j]] <- o[v[i], v[j]] + 1 / (length(v) - 1)
  }
  n_c <- rowSums(o)
  delta <- outer(seq_along(values), seq_along(values), Vectorize(function(a, b) switch(
    level, nominal = a != b, interval = (values[a] - values[b])^2,
    ratio = ((values[a] - values[b]) / (values[a] + values[b]))^2,
    ordinal = (sum(n_c[min(a, b):max(a, b)]) - (n_c[a] + n_c[b]) / 2)^2)))
  1 - (sum(n_c) - 1) * sum(o * delta) / sum(outer(n_c, n_c) * delta)
}

shrout_fleiss <- matrix(c(9, 2, 5, 8, 6, 1, 3, 2, 8, 4, 6, 8, 7, 1, 2, 6, 10, 5, 6, 9, 6, 2, 4, 7), 6, byrow = TRUE)
sf <- effects_of(y ~ p + r, data.frame(y = c(shrout_fleiss), p = factor(rep(1:6, 4)), r = factor(rep(1:4, each = 6))))$ms
not_turned <- quietly(alpha(transform(na.omit(keyed("warmth")), W1 = LOW + HIGH - W1), check.keys = FALSE))$total
identity <- icc_of(na.omit(keyed("warmth")))$table
icc_named <- setNames(as.list(identity$ICC), identity$type)

result <- list(
  meta = list(versions = list(R = R.version.string, psych = as.character(packageVersion("psych")),
                              lavaan = as.character(packageVersion("lavaan")), lme4 = as.character(packageVersion("lme4")),
                              GPArotation = as.character(packageVersion("GPArotation"))),
              keys = KEYS, range = c(LOW, HIGH)),
  scales_complete = scales, scales_pairwise = sapply(names(KEYS), pairwise, simplify = FALSE),
  efa = factors,
  omega_together = list(n_factors = 3, omega_h = together$omega_h, omega_total = together$omega.tot,
                        omega_lim = together$omega.lim, alpha = together$alpha, G6 = together$G6),
  response_style = list(sample = lapply(style, mean), first10 = lapply(style, function(v) unname(v[1:10]))),
  forward_reverse = forward_reverse,
  cfa_questionnaire = confirm(scales_model, complete),
  cfa_abilities = confirm("visual =~ x1+x2+x3\ntextual =~ x4+x5+x6\nspeed =~ x7+x8+x9", abilities),
  icc_shrout_fleiss = c(icc_of(as.data.frame(shrout_fleiss)),
                        list(published = list(ICC1 = .17, ICC2 = .29, ICC3 = .71, ICC1k = .44, ICC2k = .62, ICC3k = .91))),
  gtheory_shrout_fleiss = list(MS = list(p = sf$p, r = sf$r, pr = sf$Residuals), p = (sf$p - sf$Residuals) / 4,
                               r = (sf$r - sf$Residuals) / 6, pr_e = sf$Residuals),
  gtheory_nested = nested, gtheory_crossed = crossed, gtheory_unbalanced = unbalanced,
  retest = retest_of(occasions$t1, occasions$t2), tost_paired = paired_tost,
  mtmm = mtmm, tost_lakens2017_eskine = tost, norm_compare = norm_compare,
  krippendorff_2011 = sapply(c("nominal", "ordinal", "interval", "ratio"), krippendorff, simplify = FALSE),
  t_score_example = list(x = 3.9, mean = 3.25, sd = .9, T = 50 + 10 * (3.9 - 3.25) / .9,
                         percentile_normal = 100 * pnorm((3.9 - 3.25) / .9)),
  polychoric = list(scale = "order", n = nrow(ordinal), rho = table_of(poly$rho), tau = table_of(poly$tau),
                    ordinal_alpha = ordinal_alpha),
  unreversed = list(item = "W1", scale = "warmth", raw = not_turned$raw_alpha, std = not_turned$std.alpha),
  identity = list(scale = "warmth", alpha = scales$warmth$raw_alpha, ICC3k = icc_named$ICC3k, ICC2k = icc_named$ICC2k,
                  ICC3 = icc_named$ICC3),
  spearman_brown_prophecy = list(r = .7338, factor = 2, result = 2 * .7338 / (1 + .7338),
                                 items_for_90 = 5 * (.9 * (1 - .8133)) / (.8133 * (1 - .9))),
  disattenuation = list(rxy = .35, rxx = .7, ryy = .81, result = .35 / sqrt(.7 * .81)),
  correlation = list(scales = c("warmth", "drive"), n = nrow(pair), r = unname(r$estimate), ci95 = r$conf.int,
                     t = unname(r$statistic), spearman = cor(pair$a, pair$b, method = "spearman")),
  group_difference = list(n = sizes, mean = means, sd = sds, welch_t = unname(welch$statistic),
                          df = unname(welch$parameter), p = welch$p.value, ci95 = welch$conf.int,
                          cohen_d = (means[1] - means[2]) / pooled(sds, sizes)))
write(toJSON(result, digits = I(14), auto_unbox = TRUE, na = "null", pretty = 1), "r_values.json")
